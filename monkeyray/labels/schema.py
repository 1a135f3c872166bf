"""The columns that say where, when and by whom a labelled image was seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

#: Columns of every table of labelled images, null where unknown. `location`: the place of a camera;
#: `deployment`: a camera's period at one; `sequence`: images of one trigger; `time`: local time.
#: `level`: what was labelled, image, sequence or box. `by`: human or machine.
CONTEXT = pa.schema(
    [
        ("location", pa.string()),
        ("deployment", pa.string()),
        ("sequence", pa.string()),
        ("time", pa.timestamp("us")),
        ("level", pa.string()),
        ("by", pa.string()),
    ]
)
#: The values of `level` and `by`.
IMAGE, SEQUENCE, BOX = "image", "sequence", "box"
HUMAN, MACHINE = "human", "machine"


def with_context(table: pa.Table, known: Mapping[str, Any]) -> pa.Table:
    """A table with the columns of CONTEXT: those that are `known`, and others as nulls."""
    for name, kind in zip(CONTEXT.names, CONTEXT.types, strict=True):
        column = known.get(name, pa.nulls(table.num_rows, kind))
        at = table.column_names.index(name) if name in table.column_names else None
        table = (
            table.append_column(name, column) if at is None else table.set_column(at, name, column)
        )
    return table
