"""Of an image's boxes the row that stands for it, where images are measured or looked at.

A label is of an image. As in training its surest animal is most likely what is meant by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Flags
from monkeyray.scoring.rows import SCORED
from monkeyray.storage.keys import first_of_each, string_keys


def best_box_per_image(rows: pa.Table) -> Flags:
    """Which rows stand for their images, bool (n,): of each the scored one with the surest box, of
    equal ones the first, else its first row. `rows`: with uri, status and detection_conf."""
    scored = pc.is_in(rows["status"], pa.array(SCORED)).to_numpy()
    sure = np.where(scored, pc.fill_null(rows["detection_conf"], 0).to_numpy(), -1)
    order = np.argsort(-sure, kind="stable")
    chosen = np.zeros(len(order), bool)
    first = first_of_each(string_keys(rows["uri"].take(pa.array(order))))
    chosen[order[first]] = True
    return chosen


def one_row_per_image(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows that stand for their images, out of tables in which those of an image follow each
    other, be it in the next table."""
    held: pa.Table | None = None
    for table in tables:
        if not table.num_rows:
            continue
        rows = table if held is None else pa.concat_tables([held, table])
        start = pc.index(rows["uri"], rows["uri"][-1]).as_py()
        if start:
            yield _standing(rows.slice(0, start))
        held = rows.slice(start)
    if held is not None:
        yield _standing(held)


def _standing(rows: pa.Table) -> pa.Table:
    return rows.filter(pa.array(best_box_per_image(rows))).combine_chunks()
