"""Images that are repeated in another split are found, as by comparing all pairs."""

from __future__ import annotations

import json
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.statistics.leaks import leaks


def test_leaks_name_what_is_repeated_and_how() -> None:
    contents = ["p", "p", "q", "r", "s", "t"]
    splits = ["test", "train", "validation", "test", "train", "test"]
    pictures = np.array([0, 0, 0, 3, 4, 5])
    groups = np.array([0, 0, 0, 3, 3, 5])
    rows = leaks(list("abcdef"), splits, contents, pictures, groups)
    assert json.loads(json.dumps(rows)) == [
        {
            "uri": "a",
            "split": "test",
            "how": "identical",
            "images": 2,
            "repeats": [
                {"uri": "b", "split": "train", "how": "identical"},
                {"uri": "c", "split": "validation", "how": "near"},
            ],
        },
        {
            "uri": "d",
            "split": "test",
            "how": "group",
            "images": 1,
            "repeats": [{"uri": "e", "split": "train", "how": "group"}],
        },
        {
            "uri": "c",
            "split": "validation",
            "how": "near",
            "images": 1,
            "repeats": [{"uri": "b", "split": "train", "how": "near"}],
        },
    ]
    short = leaks(list("abcdef"), splits, contents, pictures, groups, most=1)
    assert [row["repeats"] for row in short] == [row["repeats"][:1] for row in rows]


@given(
    st.lists(
        st.tuples(st.sampled_from(["train", "validation", "test"]), *[st.integers(0, 2)] * 3),
        max_size=25,
    ),
    st.integers(1, 6),
)
def test_leaks_are_those_of_brute_force(images: list[tuple[str, int, int, int]], most: int) -> None:
    splits = [split for split, *_ in images]
    groups = [group for _, group, _, _ in images]
    pictures = [3 * group + picture for _, group, picture, _ in images]
    contents = [str(3 * pictures[i] + images[i][3]) for i in range(len(images))]
    uris = [f"{i}" for i in range(len(images))]
    expected = []
    for split, others in (("test", {"train", "validation"}), ("validation", {"train"})):
        for i in range(len(images)):
            ranked = sorted(
                (0 if contents[i] == contents[j] else 1 if pictures[i] == pictures[j] else 2, uri)
                for j, uri in enumerate(uris)
                if splits[i] == split and splits[j] in others and groups[i] == groups[j]
            )
            if ranked:
                expected.append((uris[i], split, len(ranked), ranked[:most]))
    rows = leaks(uris, splits, contents, np.array(pictures, int), np.array(groups, int), most)
    hows = ("identical", "near", "group")
    assert [
        (
            row["uri"],
            row["split"],
            row["images"],
            [(hows.index(repeat["how"]), repeat["uri"]) for repeat in row["repeats"]],
        )
        for row in rows
    ] == expected
    assert all(row["how"] == row["repeats"][0]["how"] for row in rows)


def test_leaks_of_a_large_group_are_not_compared_pair_by_pair() -> None:
    count = 40_000
    splits = ["test", "train"] * (count // 2)
    one = np.zeros(count, int)
    start = time.perf_counter()
    rows = leaks([f"{i:06}" for i in range(count)], splits, ["a"] * count, one, one)
    # 400 million pairs took over half a minute.
    assert time.perf_counter() - start < 10
    assert len(rows) == count // 2
    assert {row["images"] for row in rows} == {count // 2}
