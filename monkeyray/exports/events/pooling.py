"""Mean scores of rows that show the same animal: of a burst, or of one label in an event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.scoring.schema import listed_scores


def pooled_means(
    batches: Iterable[pa.RecordBatch], labels: list[str]
) -> Iterator[tuple[Array, Array, float]]:
    """The mean scores of each unit: numbers int64 (m,), scores float64 (m, labels), and the summed
    residual of the rows read, which the units that are yielded need not contain.

    `batches`: with the columns unit, ascending int64, and top_k. Of a unit that continues in the
    next batch only the sum is held.
    """
    held = (-1, np.zeros(len(labels)), 0)
    for batch in batches:
        scores, rest = distribute_residual(
            listed_scores(pa.chunked_array([batch["top_k"]]), labels)
        )
        units, starts, counts = np.unique(
            batch["unit"].to_numpy(), return_index=True, return_counts=True
        )
        sums = np.add.reduceat(scores, starts, axis=0)
        if units[0] == held[0]:
            sums[0] += held[1]
            counts[0] += held[2]
        elif held[2]:
            units = np.concatenate([[held[0]], units])
            sums, counts = np.vstack([held[1], sums]), np.concatenate([[held[2]], counts])
        held = (int(units[-1]), sums[-1].copy(), int(counts[-1]))
        yield units[:-1], sums[:-1] / counts[:-1, None], float(rest.sum())
    if held[2]:
        yield np.array([held[0]]), held[1][None] / held[2], 0.0


def distribute_residual(scores: Array) -> tuple[Array, Array]:
    """Distribute the residual probability of each row evenly among the labels it does not list.

    `scores`: float64 (n, labels), 0 for labels that are not listed, which get less than the
    smallest listed score. Returns the scores and the residual of each row, (n,), 0 if all labels
    are listed.
    """
    listed = scores > 0
    missing = scores.shape[1] - listed.sum(axis=1)
    rest = np.where(missing > 0, np.clip(1 - scores.sum(axis=1), 0, 1), 0.0)
    least = np.where(listed, scores, np.inf).min(axis=1, initial=np.inf)
    each = np.minimum(rest / np.maximum(missing, 1), least * (1 - 1e-9))
    return np.where(listed, scores, each[:, None]), rest
