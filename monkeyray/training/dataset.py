"""The labelled images of a training: listing, splits that share no picture, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array
from monkeyray.console import counted
from monkeyray.errors import InputError
from monkeyray.images.boxes import has_boxes
from monkeyray.labels.contradictions import CONTRADICTORY, find_contradictions
from monkeyray.labels.listing import list_labelled
from monkeyray.labels.names import read_label_names
from monkeyray.scoring.features import Features
from monkeyray.statistics.duplicates import group_images
from monkeyray.statistics.fingerprints import grey_thumbnails
from monkeyray.statistics.splits import SPLITS, Assignment, fold_images, split_images
from monkeyray.storage.keys import OTHER_FORM, fingerprint, index_in_either_form, nfc_column
from monkeyray.storage.store import Storage
from monkeyray.training.listing import best_animals, load_detections, with_best_box
from monkeyray.training.loop import Splits
from monkeyray.training.options import TrainConfig

#: The report names labels with fewer training images, and those without validation or test images.
RARE_IMAGES = 20


@dataclass(frozen=True)
class Dataset:
    """The readable images of a training; all arrays are in their order.

    `images`: the listing. `table`: the columns of the feature cache except the `vectors`, which are
    float32 (n, views, width). `labels`: sorted; `splits.truth` indexes them. `names`: the split of
    each image. `pictures`: equal numbers for files of one picture; `groups`: for images that must
    stay together. `leaked`: test images whose group is in another split too. `contradictions`: see
    Contradictions.found; they may name images that are left out. `data`: counts for the bundle.
    """

    images: pa.Table
    uris: Array
    table: pa.Table
    vectors: Array
    labels: list[str]
    splits: Splits
    folds: tuple[Splits, ...]
    names: Array
    pictures: Array
    groups: Array
    leaked: Array
    contradictions: list[dict[str, Any]]
    data: dict[str, Any]


def list_dataset(
    config: TrainConfig, storage: Storage
) -> tuple[pa.Table, dict[str, str], Counter[str]]:
    """All images with `label`, `given` split and `group`, the labels' names, and counts of skipped
    images; with detections only the images of an animal, each with its box.

    Raises InputError if they cannot be split, whatever the images show.
    """
    skipped: Counter[str] = Counter()
    boxes = load_detections(config.detections, storage) if config.detections else None
    listed: set[str] = set()

    def read(place: str, split: str | None) -> pa.Table:
        found = _tagged(list_labelled(place, storage, skipped), split)
        if boxes is None:
            return found
        listed.update(nfc_column(found["uri"]).to_pylist())
        return best_animals(found, place, boxes, config.detection_threshold, skipped)

    def read_later(place: str, table: pa.Table) -> pa.Table:
        found = _tagged(list_labelled(place, storage, skipped), None)
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
    labels = set(table["label"].to_pylist())
    if len(labels) < 2:
        raise InputError(
            f"{config.images} has only the label {next(iter(labels))!r}: a classifier needs two or "
            "more, each in a sub-folder of its own"
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
    _check_split(config, table)
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


def _check_split(config: TrainConfig, images: pa.Table) -> None:
    """Raise InputError before any image is opened if no content of the images allows a split."""
    uris = images["uri"].to_pylist()
    groups = group_images(uris, None, images["group"].to_pylist())
    pictures = group_images(uris, None)
    try:
        _fold(config, images, groups, pictures, _split(config, images, groups, pictures))
    except InputError as error:
        if config.limit is None:
            raise
        raise InputError(f"{error} (with --limit {config.limit})") from error


def _split(config: TrainConfig, images: pa.Table, groups: Array, pictures: Array) -> Assignment:
    return split_images(
        images["label"].to_pylist(),
        groups,
        images["given"].to_pylist(),
        config.validation_share,
        config.test_share,
        config.seed,
        pictures,
    )


def _fold(
    config: TrainConfig, images: pa.Table, groups: Array, pictures: Array, assigned: Assignment
) -> list[Array]:
    if not config.folds:
        return []
    return fold_images(
        images["label"].to_pylist(),
        groups,
        assigned.names != "test",
        config.folds,
        config.validation_share,
        config.seed,
        pictures,
    )


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
    columns["group"] = table["group"] if "group" in table.column_names else empty
    return pa.table(columns)


def _limit(table: pa.Table, limit: int, seed: int) -> pa.Table:
    """At most `limit` images, taken from the labels in turn, and of each label first one of every
    given split."""
    labels = np.array(table["label"].to_pylist(), dtype=object)
    given = np.array([split or "" for split in table["given"].to_pylist()])
    turn = np.empty(len(labels), np.int64)
    for number, label in enumerate(sorted(set(labels))):
        its = np.random.default_rng([seed, number]).permutation(np.flatnonzero(labels == label))
        first = np.unique(given[its], return_index=True)[1]
        order = np.concatenate([its[np.sort(first)], np.delete(its, first)])
        turn[order] = np.arange(len(its))
    return table.take(np.sort(np.argsort(turn, kind="stable")[:limit]))


def choose_images(
    config: TrainConfig, images: pa.Table, features: Features, skipped: Counter[str]
) -> Dataset:
    """The usable images, their splits, and the counts for the bundle.

    Raises InputError for a label or a given split without readable images, and for a label with too
    few different pictures.
    """
    statuses = _objects(features.table["status"])
    readable = _usable(config, images, statuses)
    rows = features.table.filter(pa.array(readable))
    contents = rows["sha256"].to_pylist()
    pictures = group_images(contents, grey_thumbnails(rows["thumbnail"]))
    found = find_contradictions(
        _objects(images["uri"])[readable].tolist(),
        _objects(images["label"])[readable].tolist(),
        contents,
        pictures,
    )
    dropped = found.dropped(config.drop_contradictions)
    statuses[np.flatnonzero(readable)[dropped]] = CONTRADICTORY
    usable = _usable(config, images, statuses)
    kept, rows = images.filter(pa.array(usable)), rows.filter(pa.array(~dropped))
    contents, pictures = rows["sha256"].to_pylist(), pictures[~dropped]
    # A given group stays together, whatever its pictures show.
    groups = group_images([str(number) for number in pictures], None, kept["group"].to_pylist())
    its_labels = kept["label"].to_pylist()
    assigned = _split(config, kept, groups, pictures)
    names = assigned.names.tolist()
    labels = sorted(set(its_labels))
    truth = np.searchsorted(labels, its_labels)
    splits = _splits(truth, assigned.names, config.class_weights)
    folds = _fold(config, kept, groups, pictures, assigned)
    counts = Counter(zip(its_labels, names, strict=True))
    boxes = [kept["detection_bbox"].to_pylist()] if has_boxes(kept.column_names) else []
    sizes = Counter(pictures.tolist())
    data = {
        "images": images.num_rows,
        "used": kept.num_rows,
        "opened": images.num_rows - features.found,
        "unusable": dict(_unusable(statuses)),
        "skipped_files": {why: number for why, number in skipped.items() if number},
        "splits": {split: names.count(split) for split in SPLITS},
        "by_label": {label: {split: counts[label, split] for split in SPLITS} for label in labels},
        "rare_labels": _rare(labels, counts),
        "duplicate_groups": sum(size > 1 for size in sizes.values()),
        "duplicate_images": sum(size - 1 for size in sizes.values()),
        "contradictions": len(found.found),
        "leaks": int(assigned.leaked.sum()),
        "validation_leaks": int(assigned.validation_leaked.sum()),
        "boxes": {"padding": config.box_padding} if config.detections else None,
        "fingerprint": fingerprint(sorted(zip(contents, its_labels, names, *boxes, strict=True))),
    }
    return Dataset(
        images=kept,
        uris=np.array(kept["uri"].to_pylist(), dtype=object),
        table=rows,
        vectors=features.vectors[usable],
        labels=labels,
        splits=splits,
        folds=tuple(_splits(truth, fold, config.class_weights) for fold in folds),
        names=assigned.names,
        leaked=assigned.leaked,
        contradictions=found.found,
        pictures=pictures,
        groups=groups,
        data=data,
    )


def _rare(labels: Sequence[str], counts: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """The labels with few training images, after those with no image in a split."""
    rows: list[dict[str, Any]] = [
        {"label": label, **{split: counts[label, split] for split in SPLITS}} for label in labels
    ]
    rows.sort(key=lambda row: all(row[split] for split in SPLITS))
    return [
        row for row in rows if row["train"] < RARE_IMAGES or not all(row[split] for split in SPLITS)
    ]


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


def _splits(truth: Array, names: Array, class_weights: str) -> Splits:
    train, validation, test = (np.flatnonzero(names == name) for name in SPLITS)
    return Splits(truth, train, validation, test, weigh(truth, train, class_weights))


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
