"""Test images that are repeated among the others are found, as by comparing all pairs."""

from __future__ import annotations

import json
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.statistics.leaks import leaks


def test_leaks_name_what_is_repeated_and_how() -> None:
    contents = ["p", "p", "q", "r", "s", "t"]
    test = np.array([True, False, False, True, False, True])
    pictures = np.array([0, 0, 0, 3, 4, 5])
    groups = np.array([0, 0, 0, 3, 3, 5])
    rows = leaks(list("abcdef"), test, contents, pictures, groups)
    assert json.loads(json.dumps(rows)) == [
        {
            "uri": "a",
            "how": "identical",
            "images": 2,
            "repeats": [
                {"uri": "b", "how": "identical"},
                {"uri": "c", "how": "near"},
            ],
        },
        {
            "uri": "d",
            "how": "group",
            "images": 1,
            "repeats": [{"uri": "e", "how": "group"}],
        },
    ]
    short = leaks(list("abcdef"), test, contents, pictures, groups, most=1)
    assert [row["repeats"] for row in short] == [row["repeats"][:1] for row in rows]


@given(
    st.lists(
        st.tuples(st.booleans(), *[st.integers(0, 2)] * 3),
        max_size=25,
    ),
    st.integers(1, 6),
)
def test_leaks_are_those_of_brute_force(
    images: list[tuple[bool, int, int, int]], most: int
) -> None:
    test = [its for its, *_ in images]
    groups = [group for _, group, _, _ in images]
    pictures = [3 * group + picture for _, group, picture, _ in images]
    contents = [str(3 * pictures[i] + images[i][3]) for i in range(len(images))]
    uris = [f"{i}" for i in range(len(images))]
    expected = []
    for i in np.flatnonzero(test).tolist():
        ranked = sorted(
            (0 if contents[i] == contents[j] else 1 if pictures[i] == pictures[j] else 2, uri)
            for j, uri in enumerate(uris)
            if not test[j] and groups[i] == groups[j]
        )
        if ranked:
            expected.append((uris[i], len(ranked), ranked[:most]))
    rows = leaks(
        uris, np.array(test, bool), contents, np.array(pictures, int), np.array(groups, int), most
    )
    hows = ("identical", "near", "group")
    assert [
        (
            row["uri"],
            row["images"],
            [(hows.index(repeat["how"]), repeat["uri"]) for repeat in row["repeats"]],
        )
        for row in rows
    ] == expected
    assert all(row["how"] == row["repeats"][0]["how"] for row in rows)


def test_leaks_of_a_large_group_are_not_compared_pair_by_pair() -> None:
    count = 40_000
    test = np.arange(count) % 2 == 0
    one = np.zeros(count, int)
    start = time.perf_counter()
    rows = leaks([f"{i:06}" for i in range(count)], test, ["a"] * count, one, one)
    # 400 million pairs took over half a minute.
    assert time.perf_counter() - start < 10
    assert len(rows) == count // 2
    assert {row["images"] for row in rows} == {count // 2}
