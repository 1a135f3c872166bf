"""Labelled images, wherever their labels are, in one Arrow table."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.console import counted, has_control
from monkeyray.errors import InputError, first_line
from monkeyray.images.boxes import ANIMAL, BOX_FIELDS
from monkeyray.images.listing import PLAN_SCHEMA, list_images
from monkeyray.images.manifest import count_true
from monkeyray.labels.folders import label_by_folder
from monkeyray.labels.formats.recognise import recognise
from monkeyray.labels.manifest import label_by_column
from monkeyray.labels.options import DEFAULTS, LabelOptions
from monkeyray.labels.paths import find_images, slashed
from monkeyray.labels.policies import one_label_per_image
from monkeyray.labels.schema import CONTEXT, NOTE
from monkeyray.labels.source import Format, Source, open_source
from monkeyray.storage.archives import BROKEN, CUT, broken_reason
from monkeyray.storage.keys import first_of_each, string_keys
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import is_table

#: Gives the URIs (string) of images that labels may be of.
Known = Callable[[], pa.Array]


def list_labelled(
    uri: str | Location,
    storage: Storage,
    skipped: Counter[str],
    options: LabelOptions = DEFAULTS,
    known: Known | None = None,
    *,
    crops: bool = False,
) -> pa.Table:
    """All labelled images of a folder, prefix, manifest or one of the formats.FORMATS, each URI
    once.

    Columns: those of `list_images`, `label`, and those of schema.CONTEXT; from a manifest also its
    others, `split` (train, validation or test) and `group` (blank ones null) among them; from a
    format also `group`. `skipped` counts what is not an image, see `list_images`, or has no label,
    and what `options` leave out, under keys that begin with schema.NOTE. `known`: the images
    that a format may name, instead of those that are there; then the labels must be in tables.
    `crops`: with boxes.BOX_FIELDS, one row for each label that boxes give an image.
    Raises InputError if there are no images, a URI of a manifest has two labels, or a label is
    empty or has control characters, and as the other modules of this package do.
    """
    place = Location.parse(uri)
    source = open_source(place, storage)
    kind = None if source is None else recognise(source, options.uri_column)
    if source is not None and kind is not None:
        return _from_format(source, kind, options, skipped, known, crops)
    if crops:
        raise InputError(
            f"--crops takes boxes from COCO or Camtrap DP, which {place} is not: give --detections"
        )
    from_table = is_table(str(place))
    if known is not None and not from_table:
        raise InputError(
            f"--labels {place} is not a table: give a .csv or .parquet file with the columns uri "
            "and label, or one of the formats of labels"
        )
    root = None if options.images_root is None else Location.parse(options.images_root)
    columns = {
        "uri": options.uri_column, "label": options.label_column, "group": options.group_column
    }  # fmt: skip
    names = {name: column for name, column in columns.items() if column is not None}
    chunks = list(list_images(place, storage, skipped, folder=root, names=names))
    listed = pa.concat_tables(chunks) if chunks else PLAN_SCHEMA.empty_table()
    broken = pc.fill_null(pc.match_substring(listed["version"], BROKEN), False)
    table = listed.filter(pc.invert(broken))
    skipped[CUT] += listed.num_rows - table.num_rows
    if options.label_level is not None:
        skipped[f"{NOTE}of {place}, which has no taxa for --label-level"] += table.num_rows
    if table.num_rows == 0:
        way_out = (
            "it has no rows" if from_table else "give a folder whose sub-folders are the labels"
        )
        reason = listed.num_rows and broken_reason(listed["version"][0].as_py())
        raise InputError(f"no images in {place}: {reason or way_out}")
    if from_table:
        table = label_by_column(place, table)
    else:
        table = label_by_folder(place, table, skipped)
    empty = count_true(pc.or_kleene(pc.is_null(table["label"]), pc.equal(table["label"], "")))
    if empty:
        raise InputError(
            f"manifest {place} has {counted(empty, 'row')} with no label (blank, or NA, NaN or "
            "null): fill or drop them"
        )
    strange = [label for label in pc.unique(table["label"]).to_pylist() if has_control(label)]
    if strange:
        raise InputError(
            f"the label {min(strange)!r} in {place} has control characters: "
            + ("correct it" if from_table else "rename the folder")
        )
    return _drop_duplicates(place, table, options.several_labels != "drop", skipped)


def _from_format(
    source: Source,
    kind: Format,
    options: LabelOptions,
    notes: Counter[str],
    known: Known | None,
    crops: bool,
) -> pa.Table:
    """One row for each image of a format: read, by the policies, and found."""
    # Nested, so that no table is kept longer than it is needed.
    table = one_label_per_image(
        _read(source, kind, options, notes), options, notes, source.place, crops=crops
    )
    root = None if options.images_root is None else Location.parse(options.images_root)
    images = find_images(
        table["path"].combine_chunks(), source.place, source.folder, root, source.storage, notes,
        None if known is None else known(),
    )  # fmt: skip
    # Without a place, the camera's period at one stands for it.
    place = pc.coalesce(table["location"], table["deployment"])
    table = table.set_column(table.column_names.index("location"), "location", place)
    for name in ("label", "group", *CONTEXT.names):
        images = images.append_column(name, table[name])
    if crops:
        # As of a detector that is certain; the numbers only tell the boxes of an image apart.
        rows = table.num_rows
        certain = (range(rows), [ANIMAL] * rows, [1.0] * rows)
        columns = [*map(pa.array, certain), table["box"]]
        for (name, type_), column in zip(BOX_FIELDS, columns, strict=True):
            images = images.append_column(name, column.cast(type_))
    images = images.filter(pc.is_valid(images["uri"]))
    if crops:
        return images
    # Several names may be of one image.
    return _drop_duplicates(source.place, images, options.several_labels == "refuse", notes)


def _read(source: Source, kind: Format, options: LabelOptions, notes: Counter[str]) -> pa.Table:
    assert kind.read is not None
    try:
        table = kind.read(source, options, notes)
    except (pa.ArrowException, TypeError, ValueError, AttributeError, sqlite3.Error) as error:
        reason = first_line(error)
        raise InputError(
            f"{source.place} was read as {kind.called}, but has odd values: {reason}: "
            "export it again, or give a table with the columns uri and label"
        ) from error
    if not table.num_rows:
        raise InputError(f"{source.place} was read as {kind.called}, and has no labels")
    return table.set_column(0, "path", slashed(table["path"], notes))


def _drop_duplicates(
    place: Location, table: pa.Table, refuse: bool, notes: Counter[str]
) -> pa.Table:
    """Each URI once, those with several labels left out or refused."""
    first = first_of_each(string_keys(table["uri"]))
    if first.all():
        return table
    pairs = table.group_by(["uri", "label"]).aggregate([])
    labels = pairs.group_by("uri").aggregate([("label", "count")])
    clash = labels.filter(pc.greater(labels["label_count"], 1))
    if clash.num_rows and refuse:
        raise InputError(
            f"{place} gives {clash['uri'][0].as_py()} two labels"
            f" ({clash.num_rows} such images): keep one, or give --several-labels drop"
        )
    if clash.num_rows:
        notes[NOTE + "images with several labels, left out"] += clash.num_rows
    left = pc.invert(pc.is_in(table["uri"], clash["uri"].combine_chunks()))
    table = table.filter(pc.and_(left, pa.array(first)))
    if not table.num_rows:
        raise InputError(
            f"no image in {place} has a single label ({clash.num_rows} with several): keep one for "
            "each"
        )
    return table
