"""The most confident animal of each labelled image, from a detector's boxes.

A label applies to the whole image and most likely means this animal. Others may be of another
species, and a herd would count many times.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import InputError
from monkeyray.images.boxes import ANIMAL
from monkeyray.images.detections import Detections, parse_detections, read_detections
from monkeyray.runs.box_rows import make_rows, match
from monkeyray.runs.plan import collect
from monkeyray.storage.keys import OTHER_FORM, first_of_each, nfc_column, string_keys
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: Why images are skipped.
NO_BOX, NOT_LISTED = "without an animal box", "not in the detections"


def load_detections(uri: str | Location, storage: Storage) -> Detections:
    """Read and check a file of detections. Raises InputError."""
    data, _ = read_detections(uri, storage)
    return parse_detections(Location.parse(uri), data)


def best_animals(
    images: pa.Table,
    place: str,
    detections: Detections,
    threshold: float | None,
    skipped: Counter[str],
    *,
    each: bool = True,
) -> pa.Table:
    """The labelled images with an animal at or above the threshold (None for the file's own), in
    order, with boxes.BOX_FIELDS of the most confident one; counts the others in `skipped`.

    `each`: raise InputError for a label or a given split without such an image.
    """
    listing = collect([images])
    assert listing is not None
    threshold = detections.threshold if threshold is None else threshold
    matched = match(detections, listing, place)
    rows = pa.concat_tables(make_rows(matched, listing, threshold).tables())
    animals = rows.filter(pc.fill_null(pc.equal(rows["detection_category"], ANIMAL), False))
    animals = animals.filter(pc.greater_equal(animals["detection_conf"], 0))  # not eliminated
    order = np.argsort(-animals["detection_conf"].to_numpy(), kind="stable")
    first = first_of_each(string_keys(animals["uri"].take(pa.array(order))))
    chosen = animals.take(pa.array(np.sort(order[first])))
    skipped[OTHER_FORM] += matched.in_other_form
    skipped[NOT_LISTED] += int((matched.where < 0).sum())
    skipped[NO_BOX] += images.num_rows - chosen.num_rows - int((matched.where < 0).sum())
    for column, what in (("label", "label"), ("given", "given split")) if each else ():
        for name in sorted(_names(images, column) - _names(chosen, column)):
            raise InputError(
                f"no image of the {what} {name!r} in {place} has an animal box with confidence "
                f"{threshold:g} or more in --detections {detections.uri}: leave it out, since "
                "--detections trains on animals only, or lower --detection-threshold"
            )
    return chosen


def with_best_box(
    table: pa.Table,
    later: pa.Table,
    new: pa.Array,
    place: str,
    detections: Detections,
    threshold: float | None,
    skipped: Counter[str],
) -> pa.Table:
    """The rows of `later` that are in `table`, and those that are `new`, bool (n,), with their most
    confident animals; in the columns of `table`.

    Raises InputError if none of the new images is in the detections.
    """
    # Images in the table already have a box.
    tables = [
        table.slice(0, 0),
        later.filter(pc.is_in(nfc_column(later["uri"]), nfc_column(table["uri"].combine_chunks()))),
    ]
    unseen = later.filter(new)
    if unseen.num_rows:
        tables.append(best_animals(unseen, place, detections, threshold, skipped, each=False))
    return pa.concat_tables(tables, promote_options="default")


def _names(table: pa.Table, column: str) -> set[Any]:
    return set(pc.unique(table[column]).to_pylist()) - {None}
