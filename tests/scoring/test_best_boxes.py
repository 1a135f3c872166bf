"""One row an image, wherever the tables are cut."""

from __future__ import annotations

import itertools

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.scoring.best_boxes import one_row_per_image

boxes = st.lists(
    st.tuples(st.sampled_from(["ok", "truncated", "person", "unreadable"]), st.integers(0, 4)),
    min_size=1, max_size=4,
)  # fmt: skip


@given(st.lists(boxes, max_size=6), st.lists(st.integers(0, 24)))
def test_the_surest_that_was_scored(images: list[list[tuple[str, int]]], cuts: list[int]) -> None:
    rows = [
        {"uri": f"{image}.jpg", "status": status, "detection_conf": conf / 4, "box": number}
        for image, its in enumerate(images)
        for number, (status, conf) in enumerate(its)
    ]
    schema = pa.schema(
        {
            "uri": pa.string(),
            "status": pa.string(),
            "detection_conf": pa.float32(),
            "box": pa.int8(),
        }
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    places = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    tables = [table.slice(a, b - a) for a, b in itertools.pairwise(places)]
    found = [row for each in one_row_per_image(tables) for row in each.to_pylist()]

    def rank(number: int, its: list[tuple[str, int]]) -> tuple[bool, int, int]:
        status, conf = its[number]
        scored = status in ("ok", "truncated")
        return not scored, -conf if scored else 0, number

    expected = [min(range(len(its)), key=lambda i: rank(i, its)) for its in images]
    assert [row["uri"] for row in found] == [f"{image}.jpg" for image in range(len(images))]
    assert [row["box"] for row in found] == expected
