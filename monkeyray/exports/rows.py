"""Columns of predictions, paths and boxes in the form exports need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array


def listed_labels(top_k: pa.ChunkedArray) -> set[str]:
    """The labels in a column top_k."""
    return set(pc.unique(_listed(top_k, "label")).to_pylist())


def listed_scores(top_k: pa.ChunkedArray, labels: list[str]) -> Array:
    """A column top_k as float64 (n, labels), 0 for labels that a row does not list and for rows
    that were not scored."""
    scores = np.zeros((len(top_k), len(labels)))
    counts = pc.fill_null(pc.list_value_length(top_k), 0).to_numpy()
    columns = pc.index_in(_listed(top_k, "label"), value_set=pa.array(labels, pa.string()))
    rows = np.repeat(np.arange(len(top_k)), counts)
    scores[rows, columns.to_numpy()] = _listed(top_k, "score").to_numpy()
    return scores


def _listed(top_k: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    return pc.struct_field(pc.list_flatten(top_k), name)


def tidy_box(bbox: Sequence[float]) -> list[float]:
    """Left, top, width and height of a box, rounded to the digits of a float32, within 0 and 1.

    >>> tidy_box([0.20000000298, -0.001, 0.5, 1.002])
    [0.2, 0.0, 0.5, 1.0]
    """
    starts = [min(max(round(share, 6), 0.0), 1.0) for share in bbox[:2]]
    ends = [min(max(bbox[i] + bbox[i + 2], 0.0), 1.0) for i in (0, 1)]
    sides = (end - start for start, end in zip(starts, ends, strict=True))
    return starts + [max(round(side, 6), 0.0) for side in sides]
