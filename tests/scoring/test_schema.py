"""The documented columns are those of the rows."""

from __future__ import annotations

import pyarrow as pa

from monkeyray.images.boxes import BOX_FIELDS
from monkeyray.runs.workers.batches import IMAGE_FIELDS
from monkeyray.scoring.schema import BOX_COLUMNS, COLUMNS, describe_columns, prediction_schema


def test_the_documented_columns_are_those_of_the_rows() -> None:
    plan = pa.schema([("uri", pa.string()), *BOX_FIELDS, ("size_bytes", pa.int64())])
    names = [name for name, _, _ in describe_columns()]
    assert prediction_schema(plan, 8, allowed=True).names == names
    assert all(meaning for _, _, meaning in describe_columns())
    assert [(name, kind) for name, kind, _ in BOX_COLUMNS] == BOX_FIELDS
    documented = {name: kind for name, kind, _ in COLUMNS}
    assert all(documented[name] == kind for name, kind in IMAGE_FIELDS)
