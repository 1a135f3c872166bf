"""The usable images of a training, in folds that have no picture in common, and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.console import counted
from monkeyray.errors import InputError
from monkeyray.images.boxes import has_boxes
from monkeyray.labels.cameras import locations_of, sequences_of
from monkeyray.labels.contradictions import CONTRADICTORY, find_contradictions
from monkeyray.model.network import Network
from monkeyray.scoring.features import Features
from monkeyray.statistics.duplicates import group_images
from monkeyray.statistics.splits import (
    LEAST_LOCATIONS,
    TEST,
    Folds,
    fold_images,
    fold_locations,
)
from monkeyray.storage.keys import fingerprint
from monkeyray.storage.mapped import select_rows
from monkeyray.training.options import TrainConfig

_SPLITS = ("train", "test")

#: The report names labels with fewer training images, or in fewer groups than there are folds.
RARE_IMAGES = 20


@dataclass(frozen=True)
class Dataset:
    """The usable images of a training; all arrays are in their order.

    `images`: the listing. `table`: the columns of the feature cache except the `vectors`, which are
    float32 (n, views, width), and the `thumbnails`, uint8 (n, 32, 32). `labels`: sorted;
    `folds.truth` indexes them. `pictures`: equal numbers for files of one picture; `groups`: for
    images that must stay together. `test`: whether an image is in the given test split; `leaked`:
    whether its group also has images outside that split; both bool (n,). `locations`: the location
    or deployment of each, str or None (n,), if folds are made of them, otherwise None; `sequences`:
    equal numbers for images of one sequence. `contradictions`: see Contradictions.found; they may
    name images that are left out. `data`: counts for the bundle.
    """

    images: pa.Table
    uris: Array
    table: pa.Table
    vectors: Array
    thumbnails: Array
    labels: list[str]
    folds: Folds
    pictures: Array
    groups: Array
    test: Array
    leaked: Array
    locations: Array | None
    sequences: Array
    contradictions: list[dict[str, Any]]
    data: dict[str, Any]


def check_folds(config: TrainConfig, images: pa.Table) -> None:
    """Raise InputError, before any image is opened, if folds are impossible whatever the images
    show."""
    groups = _join(images["uri"].to_pylist(), images["group"].to_pylist(), sequences_of(images))
    try:
        _fold(config, images, groups)
    except InputError as error:
        if config.limit is None:
            raise
        raise InputError(f"{error} (with --limit {config.limit})") from error


@dataclass(frozen=True)
class _Split:
    """`fold` and `second`: as in Folds. `locations`: as in Dataset. `note`: why folds are not made
    of the locations, although some are known."""

    fold: Array
    second: Array | None = None
    locations: Array | None = None
    note: str | None = None


def _fold(config: TrainConfig, images: pa.Table, groups: Array) -> _Split:
    given = _objects(images["given"])
    # Only fine-tuning makes choices on validation images; otherwise they are like all others.
    first = given == "validation" if config.fine_tune is not None else None
    labels, test, note = images["label"].to_pylist(), given == "test", None
    level = config.group_by or "location"
    locations = None
    if level != "sequence" and images[level].null_count < images.num_rows:
        locations = np.array(locations_of(images, level), dtype=object)
    if locations is None and config.group_by in ("location", "deployment"):
        raise InputError(
            f"--group-by {level}, but no image has a {level}: give a table with that column, or "
            "leave it out"
        )
    if locations is not None and config.group_by is None and first is not None and first.any():
        note = "the given validation images are a fold of their own"
    if locations is not None and note is None:
        blocks = _join(groups, locations.tolist())
        known = np.isin(blocks, blocks[[each is not None for each in locations]])
        places = np.where(known, blocks, -1)
        try:
            fold, second = fold_locations(
                labels, groups, places, test, config.folds, config.seed, first
            )
            tested, learned = np.array(labels, object)[fold >= 0].tolist(), int((~test).sum())
            enough = 2 * len(tested) >= learned and len(set(tested)) > 1
            if enough or config.group_by is not None:
                return _Split(fold, second, locations)
            note = (
                f"that would test only {len(tested)} of the {learned} training images, of "
                f"{counted(len(set(tested)), 'label')}, since the others are at fewer than "
                f"{LEAST_LOCATIONS} or unknown locations"
            )
        except InputError as error:
            if config.group_by is not None:
                raise
            note = str(error)
    return _Split(fold_images(labels, groups, test, config.folds, config.seed, first), note=note)


def _join(keys: Iterable[Any], *others: Sequence[str | None]) -> Array:
    """Group numbers of images that have a key in common with those of their group."""
    groups = np.asarray(group_images([str(key) for key in keys], None))
    for each in others:
        groups = group_images([str(number) for number in groups], None, each)
    return groups


def choose_images(
    config: TrainConfig, images: pa.Table, features: Features, skipped: Counter[str]
) -> Dataset:
    """The usable images, their folds, and the counts for the bundle.

    Raises InputError if a label or a given split has no readable image, and if no label has two
    different pictures.
    """
    statuses = _objects(features.table["status"])
    readable = _usable(config, images, statuses)
    rows = features.table.filter(pa.array(readable))
    contents = rows["sha256"].to_pylist()
    pictures = group_images(contents, select_rows(features.thumbnails, readable))
    shown, frames = contents, pictures
    if config.crops:
        # Boxes of a picture may have several labels; one box has one.
        boxes = rows["detection_bbox"].to_pylist()
        shown = [f"{content} {box}" for content, box in zip(contents, boxes, strict=True)]
        frames = _join(zip(pictures, boxes, strict=True))
    found = find_contradictions(
        _objects(images["uri"])[readable].tolist(),
        _objects(images["label"])[readable].tolist(),
        shown,
        frames,
    )
    dropped = found.dropped(config.drop_contradictions)
    statuses[np.flatnonzero(readable)[dropped]] = CONTRADICTORY
    usable = _usable(config, images, statuses)
    kept, rows = images.filter(pa.array(usable)), rows.filter(pa.array(~dropped))
    contents, pictures = rows["sha256"].to_pylist(), pictures[~dropped]
    # A given group or sequence stays together, whatever its pictures show.
    sequences = sequences_of(kept)
    groups = _join(pictures, kept["group"].to_pylist(), sequences)
    its_labels = kept["label"].to_pylist()
    split = _fold(config, kept, groups)
    test = split.fold == TEST
    labels = sorted(set(its_labels))
    truth = np.searchsorted(labels, its_labels)
    names = np.where(test, "test", "train").tolist()
    counts = Counter(zip(its_labels, names, strict=True))
    leaked = test & np.isin(groups, groups[~test])
    weight = weigh(truth, np.flatnonzero(~test), config.class_weights)
    folds = Folds(truth, split.fold, weight, split.second)
    boxes = [kept["detection_bbox"].to_pylist()] if has_boxes(kept.column_names) else []
    second = [] if split.second is None else [split.second.tolist()]
    sizes = Counter(frames[~dropped].tolist())
    data = {
        "images": images.num_rows,
        "used": kept.num_rows,
        "opened": images.num_rows - features.found,
        "unusable": dict(_unusable(statuses)),
        "skipped_files": {why: number for why, number in skipped.items() if number},
        "splits": {split: names.count(split) for split in _SPLITS},
        "folds": folds.count,
        "by_label": {label: {split: counts[label, split] for split in _SPLITS} for label in labels},
        "rare_labels": _rare(labels, folds, groups),
        "locations": _describe(config, labels, folds, split.locations),
        "not_by_location": split.note,
        "duplicate_groups": sum(size > 1 for size in sizes.values()),
        "duplicate_images": sum(size - 1 for size in sizes.values()),
        "contradictions": len(found.found),
        "leaks": int(leaked.sum()),
        "boxes": {"padding": config.box_padding} if config.has_boxes else None,
        "fingerprint": fingerprint(
            sorted(zip(contents, its_labels, split.fold.tolist(), *second, *boxes, strict=True))
        ),
    }
    return Dataset(
        images=kept,
        uris=np.array(kept["uri"].to_pylist(), dtype=object),
        table=rows,
        vectors=select_rows(features.vectors, usable),
        thumbnails=select_rows(features.thumbnails, usable),
        labels=labels,
        folds=folds,
        test=test,
        leaked=leaked,
        locations=split.locations,
        sequences=_join(range(kept.num_rows), sequences),
        contradictions=found.found,
        pictures=pictures,
        groups=groups,
        data=data,
    )


def identify(config: TrainConfig, network: Network, data: Dataset) -> dict[str, Any]:
    """Everything that determines the weights besides the settings of the loop, in JSON types."""
    return {
        "data": data.data["fingerprint"],
        # The order of the images determines when each is drawn and how it is augmented.
        "order": fingerprint(data.table["sha256"].to_pylist()),
        "seed": config.seed,
        "backbone_weights": network.backbone_hash(),
        "views": list(network.views),
        "class_weights": config.class_weights,
        "augment": config.augment,
        "folds": config.folds,
        **({"boxes": data.data["boxes"]} if config.has_boxes else {}),
    }


def _rare(labels: Sequence[str], folds: Folds, groups: Array) -> list[dict[str, Any]]:
    """The labels with few training images (`train`), in few `groups`, or without images in the
    given test split (`test`, None without such a split), in JSON types."""
    test = folds.fold == TEST
    rows: list[dict[str, Any]] = []
    for number, label in enumerate(labels):
        its = folds.truth == number
        row: dict[str, Any] = {
            "label": label,
            "train": int((its & ~test).sum()),
            "groups": len(np.unique(groups[its & ~test])),
            "test": int((its & test).sum()) if test.any() else None,
        }
        if row["train"] < RARE_IMAGES or row["groups"] < folds.count or row["test"] == 0:
            rows.append(row)
    return sorted(rows, key=lambda row: row["groups"] > 1)


def _describe(
    config: TrainConfig, labels: Sequence[str], folds: Folds, locations: Array | None
) -> dict[str, Any] | None:
    """The locations of the training images in JSON types, None if folds are not made of them: what
    they are (`level`), their `count`, images of `unknown` ones, and the labels that are `untested`,
    each with its number of `locations`."""
    if locations is None:
        return None
    learned, untested = folds.fold != TEST, []
    for number, label in enumerate(labels):
        its = folds.truth == number
        if not (folds.fold[its] >= 0).any():
            found = len(set(locations[its & learned].tolist()) - {None})
            untested.append({"label": label, "locations": found})
    named = locations[learned].tolist()
    return {
        "level": config.group_by or "location",
        "count": len(set(named) - {None}),
        "unknown": named.count(None),
        "untested": untested,
    }


def _unusable(statuses: Array) -> Counter[str]:
    """Images that are not trained on, by status."""
    return Counter(statuses[statuses != "ok"].tolist())


def _usable(config: TrainConfig, images: pa.Table, statuses: Array) -> Array:
    """Which images are usable, bool (n,). Raises InputError for a label or a given split without
    any."""
    usable = np.array(statuses == "ok", bool)
    if not usable.any():
        raise InputError(
            f"none of the {images.num_rows} images can be used: {dict(_unusable(statuses))}"
        )
    limit = f" (with --limit {config.limit})" if config.limit is not None else ""
    for label, count, reasons in _unreadable(images["label"].to_pylist(), statuses):
        raise InputError(
            f"none of the {count} images of label {label!r} can be used ({reasons}): replace them "
            f"or drop it{limit}"
        )
    # A lost split must not be replaced silently by a share of the others.
    for split, count, reasons in _unreadable(images["given"].to_pylist(), statuses):
        place = f" (--test {config.test})" if split == "test" and config.test is not None else ""
        raise InputError(
            f"none of the {count} images of the given {split} split{place} can be used "
            f"({reasons}): replace them, or drop that split{limit}"
        )
    return usable


def _unreadable(names: Sequence[str | None], statuses: Array) -> Iterator[tuple[str, int, str]]:
    """The names without readable images, in order, each with its number of images and the
    reasons."""
    found: dict[str, Counter[str]] = {}
    for name, status in zip(names, statuses, strict=True):
        if name is not None:
            found.setdefault(name, Counter())[status] += 1
    for name, its in sorted(found.items()):
        if "ok" not in its:
            reasons = ", ".join(f"{count} {status}" for status, count in its.most_common())
            yield name, its.total(), reasons


def _objects(column: pa.ChunkedArray) -> Array:
    return np.array(column.to_pylist(), dtype=object)


def weigh(truth: Array, train: Array, class_weights: str) -> Array | None:
    """The weight of every image in the loss, 1 on average over the training images; None for equal
    weights.

    balanced: images / (labels x images of the label), as in scikit-learn; sqrt: its square root.
    """
    if class_weights == "none":
        return None
    counts = np.bincount(truth[train], minlength=truth.max() + 1)
    each = len(train) / (len(counts) * np.maximum(counts, 1))
    if class_weights == "sqrt":
        each = np.sqrt(each)
    return np.asarray(each[truth] / each[truth[train]].mean())
