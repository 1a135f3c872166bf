"""The columns of labelled images, and of the labels that formats of the field are turned into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.images.manifest import count_true
from monkeyray.storage.keys import nfc_column
from monkeyray.storage.tables import MISSING_TEXTS

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

#: What a format gives, one row a label, so that an image may have several. `path`: of the image as
#: it is written. `label`: null if nothing was identified. `species`, `genus`, `family`: null if
#: the animal was not identified to them. `box`: left, top, width and height as shares of the image.
LABELS = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("species", pa.string()),
        ("genus", pa.string()),
        ("family", pa.string()),
        ("box", pa.list_(pa.float32(), 4)),
        *CONTEXT,
    ]
)

#: The start of the keys of counts that describe what became of labels.
NOTE = "labels: "

#: Times in tables, after a space for the T and without fractions and offsets.
_ISO = ("%Y-%m-%d %H:%M:%S", "%Y:%m:%d %H:%M:%S", "%d-%b-%Y %H:%M:%S", "%Y-%m-%d %H:%M")
_EARLIEST = 1990


def with_context(table: pa.Table, known: Mapping[str, Any]) -> pa.Table:
    """A table with the columns of CONTEXT: those that are `known`, and others as nulls."""
    for name, kind in zip(CONTEXT.names, CONTEXT.types, strict=True):
        column = known.get(name, pa.nulls(table.num_rows, kind))
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def labels_table(rows: int, **known: Any) -> pa.Table:
    """A table of LABELS: the columns that are `known`, each a value for all rows or an array, and
    others as nulls."""
    columns = []
    for name, kind in zip(LABELS.names, LABELS.types, strict=True):
        value = known.get(name)
        if value is None or isinstance(value, str):
            value = pa.repeat(pa.scalar(value, kind), rows)
        columns.append(value)
    return pa.table(columns, schema=LABELS)


def with_labels(table: pa.Table, columns: Sequence[Any]) -> pa.Table:
    """The rows of LABELS once for each of their labels, in order, and those without any once.

    `columns`: of labels (string), null where a row has none.
    """
    numbers = [np.flatnonzero(np.asarray(pc.is_valid(each))) for each in columns]
    some = np.zeros(table.num_rows, bool)
    some[np.concatenate(numbers)] = True
    numbers.append(np.flatnonzero(~some))
    labels = [pc.drop_null(each) for each in columns]
    labels.append(pa.nulls(len(numbers[-1]), pa.string()))
    whole = pa.concat_arrays(
        [each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each for each in labels]
    )
    rows = np.concatenate(numbers)
    order = np.argsort(rows, kind="stable")
    at = table.column_names.index("label")
    return table.take(pa.array(rows[order])).set_column(at, "label", whole.take(pa.array(order)))


def has_column(name: str | None, table: pa.Table, notes: Counter[str]) -> bool:
    """Whether a table has the column that an option names; `notes` counts the rows if not."""
    found = name in table.column_names
    if name is not None and not found:
        notes[f"{NOTE}read from the usual column, since there is no column {name}"] += len(table)
    return found


def texts(table: pa.Table, name: str | None) -> Any:
    """A column as trimmed text (string) in NFC, null where it is blank or one of MISSING_TEXTS; all
    null if the table has no such column."""
    if name is None or name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    text = nfc_column(pc.utf8_trim_whitespace(table[name].cast(pa.string())))
    return pc.if_else(pc.is_in(text, pa.array(["", *MISSING_TEXTS])), None, text)


def is_true(column: Any) -> Any:
    """Which texts (string) say yes, bool (n,)."""
    yes = pc.is_in(pc.utf8_lower(column), pa.array(["true", "1", "yes", "t", "y"]))
    return pc.fill_null(yes, False)


def binomial(genus: Any, species: Any) -> Any:
    """Names of species, null without one: the epithet after the genus, unless it has both."""
    whole = pc.match_substring(species, " ")
    return pc.if_else(whole, species, pc.binary_join_element_wise(genus, species, " "))


def times(column: Any, *forms: str) -> Any:
    """Local times (timestamp) out of texts (string), null for others and those of cameras whose
    clock was not set, before 1990.

    `forms`: those of strptime to try after the usual ones.
    """
    cut = pc.replace_substring_regex(column, r"^(\d{4}\S{6})[T ]\s*", r"\1 ")
    cut = pc.replace_substring_regex(cut, r"( \d?\d:\d\d:\d\d)\D.*$", r"\1")
    parsed = [
        pc.strptime(cut, format=form, unit="us", error_is_null=True) for form in (*_ISO, *forms)
    ]
    time = pc.coalesce(*parsed)
    return pc.if_else(pc.less(pc.year(time), _EARLIEST), None, time)


def leave_out(table: pa.Table, mask: Any, notes: Counter[str], why: str) -> pa.Table:
    """The rows where `mask` is not true, bool (n,); `notes` counts the others."""
    mask = pc.fill_null(mask, False)
    if count := count_true(mask):
        notes[NOTE + why] += count
        table = table.filter(pc.invert(mask))
    return table
