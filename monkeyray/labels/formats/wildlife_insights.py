"""Exports of Wildlife Insights: of images, or of sequences with their images."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import InputError
from monkeyray.labels.options import LabelOptions
from monkeyray.labels.schema import (
    HUMAN,
    IMAGE,
    MACHINE,
    SEQUENCE,
    binomial,
    has_column,
    is_true,
    labels_table,
    texts,
    times,
    with_labels,
)
from monkeyray.labels.source import DEPLOYMENTS, Format, Source

#: Values of `class` for images in which nothing was identified.
_UNIDENTIFIED = pa.array(["cv needed", "cv failed", "no cv result"])
_DEPLOYMENT = ("project_id", "deployment_id")


def _read(source: Source, options: LabelOptions, notes: Counter[str]) -> pa.Table:
    images, sequences = _table(source, "images"), _table(source, "sequences")
    if not {"filename", "location", options.uri_column} & set(images.column_names):
        raise InputError(
            f"{source.place} looks like an export of Wildlife Insights, but has no table of images "
            "with filename or location: give the export's whole folder or zip"
        )
    known = _images(source, images, options)
    found = []
    if "is_blank" in images.column_names:
        found.append(_identified(images, known, IMAGE, options, notes))
    if sequences.num_rows:
        keys = pa.table({"key": _key(images, (*_DEPLOYMENT, "sequence_id"))})
        keys = keys.append_column("image", pa.array(range(images.num_rows), pa.int64()))
        rows = pa.table({"key": _key(sequences, (*_DEPLOYMENT, "sequence_id"))})
        rows = rows.append_column("row", pa.array(range(sequences.num_rows), pa.int64()))
        pairs = keys.join(rows, "key", join_type="inner")
        pairs = pairs.sort_by([("image", "ascending"), ("row", "ascending")])
        its = {name: column.take(pairs["image"]) for name, column in known.items()}
        rows = sequences.take(pairs["row"])
        found.append(_identified(rows, its, SEQUENCE, options, notes))
    return pa.concat_tables(found)


def _table(source: Source, start: str) -> pa.Table:
    """The table of images or of sequences, which large exports have in several files."""
    pattern = re.compile(rf"(?i)(^|/){start}(_[^/]*)?\.csv(\.gz)?$")
    names = sorted(filter(pattern.search, source.names))
    if start == "images" and not names:
        names = [source.main]
    elif not names and source.has(f"{start}.csv"):
        names = [f"{start}.csv"]
    tables = [source.table(name) for name in names]
    return pa.concat_tables([pa.table({}), *tables], promote_options="default")


def _images(source: Source, images: pa.Table, options: LabelOptions) -> dict[str, Any]:
    """The columns of LABELS that images have, whoever identified them."""
    location, deployment = texts(images, "location"), texts(images, "deployment_id")
    inside = pc.binary_join_element_wise(deployment, texts(images, "filename"), "/")
    # Published copies have other web addresses there, of no image.
    in_bucket = pc.fill_null(pc.starts_with(location, "gs://"), False)
    path = pc.coalesce(pc.if_else(in_bucket, location, inside), location)
    if options.uri_column in images.column_names:
        path = texts(images, options.uri_column)
    place = pa.nulls(images.num_rows, pa.string())
    if source.has(DEPLOYMENTS):
        deployments = source.table(DEPLOYMENTS)
        keys = pa.chunked_array(_key(deployments, _DEPLOYMENT)).combine_chunks()
        where = pc.index_in(_key(images, _DEPLOYMENT), value_set=keys)
        place = texts(deployments, "placename").take(where)
    return {
        "path": path,
        "group": texts(images, options.group_column),
        "location": place,
        "deployment": deployment,
        "sequence": _key(images, (*_DEPLOYMENT, "sequence_id")),
        "time": times(texts(images, "timestamp")),
    }


def _key(table: pa.Table, names: tuple[str, ...]) -> Any:
    """Several columns as one text, null if the last is."""
    *first, last = (texts(table, name) for name in names)
    return pc.binary_join_element_wise(*(pc.fill_null(each, "") for each in first), last, "/")


def _identified(
    rows: pa.Table, known: dict[str, Any], level: str, options: LabelOptions, notes: Counter[str]
) -> pa.Table:
    """The labels of rows, of which a blank one that names a species gives two."""
    class_, order, family = (texts(rows, name) for name in ("class", "order", "family"))
    genus, common = texts(rows, "genus"), texts(rows, "common_name")
    species = binomial(genus, texts(rows, "species"))
    # Common names are not unique, so that they count only where nothing else is known.
    label = pc.coalesce(species, genus, family, order, class_, common)
    if has_column(options.label_column, rows, notes):
        label = texts(rows, options.label_column)
    pending = pc.is_in(pc.utf8_lower(class_), _UNIDENTIFIED)
    label = pc.if_else(pending, None, label)
    machine = pc.fill_null(pc.equal(texts(rows, "identified_by"), "Computer Vision"), False)
    table = labels_table(
        rows.num_rows,
        **known,
        species=species,
        genus=genus,
        family=family,
        level=level,
        by=pc.if_else(machine, MACHINE, HUMAN),
    )
    blank = is_true(texts(rows, "is_blank"))
    blank = pc.if_else(blank, pa.scalar("blank"), pa.scalar(None, pa.string()))
    return with_labels(table, [label, blank])


_MARKS = ("projectid", "deploymentid", "isblank", "identifiedby", "witaxonid", "uncertainty")

FORMATS = (
    Format(
        "an export of Wildlife Insights", frozenset(_MARKS),
        frozenset(["deploymentid", "isblank", "identifiedby"]),
        "export it again with all columns", _read,
    ),
    Format(
        "an export of Wildlife Insights", frozenset(["projectid", "deploymentid", "sequenceid",
        "filename", "timestamp"]), frozenset(["deploymentid", "sequenceid"]),
        "export it again with all columns", _read,
    ),
)  # fmt: skip
