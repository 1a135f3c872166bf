"""Labelled images, wherever their labels are, in one Arrow table."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.console import counted, has_control
from monkeyray.errors import InputError
from monkeyray.images.listing import PLAN_SCHEMA, list_images
from monkeyray.images.manifest import count_true
from monkeyray.labels.folders import label_by_folder
from monkeyray.labels.manifest import label_by_column
from monkeyray.storage.keys import first_of_each, string_keys
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import is_table


def list_labelled(uri: str | Location, storage: Storage, skipped: Counter[str]) -> pa.Table:
    """All labelled images of a folder, prefix or manifest, each URI once.

    Columns: those of `list_images`, `label`, and those of schema.CONTEXT; from a manifest also its
    others, `split` (train, validation or test) and `group` (blank ones null) among them. `skipped`
    counts what is not an image, see `list_images`, or has no label. Raises InputError if there are
    no images, a URI has two labels, or a label is empty or has control characters, and as
    labels.folders and labels.manifest do.
    """
    place = Location.parse(uri)
    chunks = list(list_images(place, storage, skipped))
    table = pa.concat_tables(chunks) if chunks else PLAN_SCHEMA.empty_table()
    if table.num_rows == 0:
        raise InputError(f"no images in {place}: give a folder whose sub-folders are the labels")
    from_table = is_table(str(place))
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
    return _drop_duplicates(place, table)


def _drop_duplicates(place: Location, table: pa.Table) -> pa.Table:
    pairs = table.group_by(["uri", "label"]).aggregate([])
    labels = pairs.group_by("uri").aggregate([("label", "count")])
    clash = labels.filter(pc.greater(labels["label_count"], 1))
    if clash.num_rows:
        raise InputError(
            f"manifest {place} gives {clash['uri'][0].as_py()} two labels"
            f" ({clash.num_rows} such images): keep one"
        )
    return table.filter(pa.array(first_of_each(string_keys(table["uri"]))))
