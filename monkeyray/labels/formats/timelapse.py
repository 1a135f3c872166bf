"""Timelapse: its CSV, and its database (.ddb)."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import InputError
from monkeyray.labels.options import LabelOptions
from monkeyray.labels.schema import (
    HUMAN,
    IMAGE,
    has_column,
    is_true,
    labels_table,
    leave_out,
    texts,
    times,
    with_labels,
)
from monkeyray.labels.source import Format, Source
from monkeyray.storage.spreadsheets import unguard
from monkeyray.storage.tables import key

#: Columns of every template, which hold no labels.
_STANDARD = frozenset(
    ["id", "rootfolder", "folder", "file", "relativepath", "datetime", "date", "time", "utcoffset",
     "deleteflag", "imagequality", ""]
)  # fmt: skip
#: Names of the column of labels, the best first.
_LABELS = ("species", "label", "scientificname", "commonname", "animalspecies")
#: Flags of templates, in which people tick what else an image shows, and their labels.
_FLAGS = {"empty": "blank", "blank": "blank", "person": "human", "human": "human",
          "people": "human", "vehicle": "vehicle"}  # fmt: skip


def _read_csv(source: Source, options: LabelOptions, notes: Counter[str]) -> pa.Table:
    return _labels(source, source.table(source.main), options, notes)


def _read_database(source: Source, options: LabelOptions, notes: Counter[str]) -> pa.Table:
    with source.database() as database:
        rows = database.execute("SELECT * FROM DataTable")
        names = [column[0] for column in rows.description]
        columns = zip(*rows, strict=True)
        table = pa.table(
            [pa.array([None if v is None else str(v) for v in each]) for each in columns]
            or [pa.array([], pa.string())] * len(names),
            names,
        )
    return _labels(source, table, options, notes)


def _labels(
    source: Source, table: pa.Table, options: LabelOptions, notes: Counter[str]
) -> pa.Table:
    named = {key(name): name for name in reversed(table.column_names)}
    label = _label_column(source, named, options)
    has_column(options.label_column, table, notes)
    if "deleteflag" in named:
        deleted = is_true(texts(table, named["deleteflag"]))
        table = leave_out(table, deleted, notes, "of images marked for deletion, left out")
    folder, file = texts(table, named["relativepath"]), texts(table, named["file"])
    moment = texts(table, named.get("datetime"))
    if "datetime" not in named and "date" in named:
        moment = pc.binary_join_element_wise(
            texts(table, named["date"]), texts(table, named.get("time")), " "
        )
    known = {
        "path": pc.coalesce(pc.binary_join_element_wise(folder, file, "\\"), file),
        "group": texts(table, options.group_column),
        "deployment": pc.replace_substring(folder, "\\", "/"),
        "time": times(moment),
    }
    labels = [unguard(texts(table, label))]
    # A picture may show a person beside an animal, and "empty" may contradict the species.
    for flag, kind in _FLAGS.items():
        if flag in named and named[flag] != label:
            ticked = is_true(texts(table, named[flag]))
            labels.append(pc.if_else(ticked, pa.scalar(kind), pa.scalar(None, pa.string())))
    rows = labels_table(table.num_rows, level=IMAGE, by=HUMAN, **known)
    return with_labels(rows, labels)


def _label_column(source: Source, named: dict[str, str], options: LabelOptions) -> str:
    columns = [name for each, name in named.items() if each not in _STANDARD]
    if options.label_column in columns:
        return str(options.label_column)
    found = next((named[each] for each in _LABELS if each in named), None)
    if found is None:
        given = options.label_column
        raise InputError(
            f"{source.place} comes from Timelapse, whose templates name the column of labels, and "
            + ("it has no Species" if given is None else f"it has no {given}")
            + f": give one of its columns by --label-column: {', '.join(sorted(columns))}"
        )
    return found


_COLUMNS = frozenset(["file", "relativepath"])
_WAY_OUT = "export it from Timelapse again with File and RelativePath"

FORMATS = (
    Format(
        "a CSV of Timelapse", _COLUMNS | {"deleteflag", "datetime"}, _COLUMNS, _WAY_OUT, _read_csv
    ),
    Format(
        "a database of Timelapse", frozenset(["datatable", "templatetable"]),
        frozenset(["datatable"]), "give the .ddb, not the .tdb of the template", _read_database,
    ),
)  # fmt: skip
