"""Labelled images from tables with the columns uri and label."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import InputError
from monkeyray.images.listing import PLAN_SCHEMA
from monkeyray.images.manifest import as_text
from monkeyray.images.times import parse_time, wall_times
from monkeyray.labels.schema import IMAGE, with_context
from monkeyray.storage.keys import nfc_column
from monkeyray.storage.location import Location
from monkeyray.storage.spreadsheets import unguard
from monkeyray.storage.tables import is_parquet

#: Common spellings of split names.
SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip

#: The columns of a manifest that CONTEXT's are made of, the best first.
_CONTEXT = {
    "location": ("location", "site"),
    "deployment": ("deployment", "camera"),
    "sequence": ("sequence",),
    "time": ("time", "captured_at"),
}


def label_by_column(manifest: Location, table: pa.Table) -> pa.Table:
    """A manifest's images with the columns `label`, `split` and `group` (string), trimmed, in NFC.

    A blank `group` is null. In a CSV, the ' before a label that looks like a formula is removed.
    The columns of schema.CONTEXT come from those of _CONTEXT; a `time` that is none is null.
    Raises InputError if there is no column `label`, or a split has another name than those of
    SPLITS.
    """
    if "label" not in table.column_names:
        names = [name for name in table.column_names if name not in PLAN_SCHEMA.names[1:]]
        raise InputError(
            f"manifest {manifest} has no column 'label', only {', '.join(names)}: rename the one "
            "with the labels, or name it by --label-column"
        )
    for name in ("label", "split", "group"):
        if name not in table.column_names:
            continue
        text = nfc_column(pc.utf8_trim_whitespace(as_text(str(manifest), table, name)))
        if name == "group":
            text = pc.if_else(pc.equal(text, ""), None, text)
        elif name == "split":
            text = _splits(manifest, text)
        elif not is_parquet(manifest):
            text = unguard(text)
        table = table.set_column(table.column_names.index(name), name, text)
    return with_context(table, _context(manifest, table))


def _context(manifest: Location, table: pa.Table) -> dict[str, pa.ChunkedArray]:
    known = {"level": pa.repeat(pa.scalar(IMAGE), table.num_rows)}
    for name, spellings in _CONTEXT.items():
        its = [
            each for each in spellings
            if each in table.column_names and not pa.types.is_nested(table[each].type)
        ]  # fmt: skip
        if not its:
            continue
        text = pc.utf8_trim_whitespace(as_text(str(manifest), table, its[0]))
        text = nfc_column(pc.if_else(pc.equal(text, ""), None, text))
        if name == "time":
            parsed = [parse_time(each) if each else None for each in text.to_pylist()]
            wall, there = wall_times(pa.chunked_array([pa.array(parsed, pa.string())]))
            text = pa.array(wall, pa.timestamp("us"), mask=~there)
        known[name] = text
    return known


def _splits(manifest: Location, column: pa.ChunkedArray) -> pa.Array:
    values = [(value or "").lower() for value in column.to_pylist()]
    unknown = sorted(set(values) - set(SPLITS))
    if unknown:
        raise InputError(
            f"manifest {manifest} has the split {unknown[0]!r}: write train, validation or test in "
            "every row, or drop the column"
        )
    return pa.array([SPLITS[value] for value in values], pa.string())
