"""The usable images of a training, in splits that share no picture, and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.errors import InputError
from monkeyray.images.boxes import has_boxes
from monkeyray.labels.contradictions import CONTRADICTORY, find_contradictions
from monkeyray.model.backbones import weights_hash
from monkeyray.model.network import Network
from monkeyray.scoring.features import Features
from monkeyray.statistics.duplicates import group_images
from monkeyray.statistics.fingerprints import grey_thumbnails
from monkeyray.statistics.splits import SPLITS, Assignment, fold_images, split_images
from monkeyray.storage.keys import fingerprint
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


def check_split(config: TrainConfig, images: pa.Table) -> None:
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


def identify(config: TrainConfig, network: Network, data: Dataset) -> dict[str, Any]:
    """What decides the weights besides the settings of the loop, in JSON's types."""
    return {
        "data": data.data["fingerprint"],
        # An image's place in the list decides when it is drawn and how it is augmented.
        "order": fingerprint(data.table["sha256"].to_pylist()),
        "seed": config.seed,
        "backbone_weights": weights_hash(network.backbone_weights),
        "views": list(network.views),
        "class_weights": config.class_weights,
        "augment": config.augment,
        "folds": config.folds,
        **({"boxes": data.data["boxes"]} if config.detections else {}),
    }


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
