"""The labelled images of a training as one table: given images, test images and corrections.

With detections an image is cropped to its most confident animal. A label applies to the whole image
and most likely means this animal. Others may be of another species, and a herd would count many
times.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.console import Say, counted
from monkeyray.errors import InputError
from monkeyray.images.boxes import ANIMAL, BOX_COLUMNS
from monkeyray.images.detections import Detections, parse_detections, read_detections
from monkeyray.images.listing import say_notes
from monkeyray.images.manifest import count_true
from monkeyray.labels.listing import list_labelled
from monkeyray.labels.names import read_label_names
from monkeyray.labels.policies import say_labels
from monkeyray.runs.box_rows import make_rows, match
from monkeyray.runs.cluster import check_relative
from monkeyray.runs.plan import collect
from monkeyray.storage.keys import (
    OTHER_FORM,
    first_of_each,
    index_in_either_form,
    nfc_column,
    string_keys,
)
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.dataset import check_folds
from monkeyray.training.options import TrainConfig

#: Why images are skipped.
NO_BOX, NOT_LISTED = "without an animal box", "not in the detections"
NOT_ONE_BOX = "corrected without a single box"


def check_places(config: TrainConfig, storage: Storage) -> None:
    """Raise a MonkeyRayError, before anything is read, for a place that workers cannot reach or
    that cannot be written."""
    places = {
        name: getattr(config, name)
        for name in (
            "images",
            "model",
            "test",
            "features",
            "label_names",
            "detections",
            "images_root",
        )
    }
    if config.weights not in ("imagenet", "none"):
        places["weights"] = config.weights
    if config.is_onnx:
        places["backbone"] = config.backbone
    given = [*places.items(), *(("corrections", each) for each in config.corrections)]
    for option, place in given:
        check_relative(option.replace("_", "-"), place)
        if place is not None:
            storage.check_reachable(Location.parse(place))
    for place in filter(None, [config.model, config.features]):
        storage.check_conditions(Location.parse(place))


def say_skipped(skipped: Counter[str], say: Say) -> None:
    """Report which files are left out, and why."""
    say_notes(skipped, say)
    say_labels(skipped, say)
    for why in (NO_BOX, NOT_LISTED, NOT_ONE_BOX):
        if skipped[why]:
            say(f"left out, {why}: {counted(skipped[why], 'image')}")


def list_dataset(
    config: TrainConfig, storage: Storage
) -> tuple[pa.Table, dict[str, str], Counter[str]]:
    """All images with `label`, `given` split and `group`, the names of the labels, and the counts
    of skipped images. With detections, only images of an animal, each with its box.

    Raises InputError if folds are impossible whatever the images show.
    """
    skipped: Counter[str] = Counter()
    boxes = load_detections(config.detections, storage) if config.detections else None
    listed: set[str] = set()

    def read(place: str, split: str | None) -> pa.Table:
        found = _tagged(list_labelled(place, storage, skipped, config, crops=config.crops), split)
        if boxes is None:
            return found
        listed.update(nfc_column(found["uri"]).to_pylist())
        return best_animals(found, place, boxes, config.detection_threshold, skipped)

    def read_later(place: str, table: pa.Table) -> pa.Table:
        found = _tagged(list_labelled(place, storage, skipped, config), None)
        if config.crops:
            return _of_boxes(found, table, skipped)
        if boxes is None:
            return found
        uris = nfc_column(found["uri"]).to_pylist()
        new = pa.array([uri not in listed for uri in uris], pa.bool_())
        listed.update(uris)
        threshold = config.detection_threshold
        return with_best_box(table, found, new, place, boxes, threshold, skipped)

    table = read(config.images, None)
    if config.test is not None:
        test = read(config.test, "test")
        both = set(table["uri"].to_pylist()) & set(test["uri"].to_pylist())
        if both:
            raise InputError(
                f"--test {config.test} and --images {config.images} have "
                f"{counted(len(both), 'file')} in common, such as {min(both)}: give places that do "
                "not overlap"
            )
        table = pa.concat_tables([table, test])
    for uri in config.corrections:
        table = apply_corrections(table, read_later(uri, table), skipped)
    if config.group_column is not None and table["group"].null_count == table.num_rows:
        raise InputError(
            f"--group-column {config.group_column}: no labelled image has a value in a column of "
            "this name; correct the name or leave the option out"
        )
    labels = set(table["label"].to_pylist())
    if len(labels) < 2:
        raise InputError(
            f"{config.images} has only the label {next(iter(labels))!r}: a classifier needs two or "
            "more, as names of sub-folders or in a table's column"
        )
    names = read_label_names(config.label_names, storage) if config.label_names else {}
    if names and not set(names) & labels:
        raise InputError(
            f"--label-names {config.label_names} names none of the labels, such as "
            f"{min(labels)!r}: its column 'label' must hold the labels"
        )
    if config.limit is not None:
        listed = table
        table = _limit(table, config.limit, config.seed)
        for split in sorted(_given(listed) - _given(table)):
            raise InputError(
                f"--limit {config.limit} leaves no image of the given {split} split: raise it"
            )
    check_folds(config, table)
    return table, names, skipped


def apply_corrections(table: pa.Table, later: pa.Table, notes: Counter[str]) -> pa.Table:
    """The images of both tables, which have the same columns. An image in both, by URI, gets the
    label of `later` and keeps everything else, such as a given split; new images come last.
    `notes` counts OTHER_FORM.
    """
    known, new = table["uri"].combine_chunks(), later["uri"].combine_chunks()
    where, in_other_form = index_in_either_form(table["uri"], new)
    notes[OTHER_FORM] += in_other_form
    place = table.column_names.index("label")
    labels = pc.coalesce(later["label"].take(where), table["label"])
    table = table.set_column(place, "label", labels)
    where, _ = index_in_either_form(later["uri"], known)
    return pa.concat_tables([table, later.filter(pc.is_null(where))])


def _of_boxes(later: pa.Table, table: pa.Table, skipped: Counter[str]) -> pa.Table:
    """The rows of `later` for images that have a single box in `table`, in its columns."""
    counts = nfc_column(table["uri"]).value_counts()
    single = counts.field("values").filter(pc.equal(counts.field("counts"), 1))
    kept = pc.is_in(nfc_column(later["uri"]), single)
    skipped[NOT_ONE_BOX] += later.num_rows - count_true(kept)
    return pa.concat_tables([table.slice(0, 0), later.filter(kept)], promote_options="default")


def _given(images: pa.Table) -> set[str]:
    """The given splits."""
    return set(images["given"].to_pylist()) - {None}


def _tagged(table: pa.Table, split: str | None) -> pa.Table:
    columns = {name: table[name] for name in ("uri", "size_bytes", "version", "label")}
    empty = pa.nulls(table.num_rows, pa.string())
    if split is not None:
        columns["given"] = pa.array([split] * table.num_rows, pa.string())
    else:
        columns["given"] = table["split"] if "split" in table.column_names else empty
    columns |= {name: table[name] for name in BOX_COLUMNS if name in table.column_names}
    for name in ("group", "location", "deployment", "sequence"):
        columns[name] = table[name] if name in table.column_names else empty
    return pa.table(columns)


def _limit(table: pa.Table, limit: int, seed: int) -> pa.Table:
    """At most `limit` images, taken from the labels in turn; from each label, first one image of
    every given split."""
    labels = np.array(table["label"].to_pylist(), dtype=object)
    given = np.array([split or "" for split in table["given"].to_pylist()])
    turn = np.empty(len(labels), np.int64)
    for number, label in enumerate(sorted(set(labels))):
        its = np.random.default_rng([seed, number]).permutation(np.flatnonzero(labels == label))
        first = np.unique(given[its], return_index=True)[1]
        order = np.concatenate([its[np.sort(first)], np.delete(its, first)])
        turn[order] = np.arange(len(its))
    return table.take(np.sort(np.argsort(turn, kind="stable")[:limit]))


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
