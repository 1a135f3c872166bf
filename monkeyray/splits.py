"""The three parts: train, validation and test never share a group of images."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monkeyray.errors import InputError

PARTS = ("train", "validation", "test")

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Split:
    """`parts`: a name of PARTS per image. `leaked`: test images (bool) whose picture is in another
    part too, which happens only where the parts were given."""

    parts: np.ndarray[Any, Any]
    leaked: np.ndarray[Any, np.dtype[np.bool_]]


def split_images(
    labels: Sequence[str],
    groups: Ints,
    given: Sequence[str | None],
    validation_share: float,
    test_share: float,
    seed: int,
) -> Split:
    """Each image's part, by label, whole groups at a time, seeded.

    `given` holds the parts that are fixed, None where free. Where some are given but no validation
    (or no test), that share is taken out of train; what was given as test stays as it is, and
    pictures that it shares with another part are named in `leaked`.

    Raises InputError for a label with too few different pictures to be in every part.
    """
    parts: list[str | None] = list(given)
    fixed = {part for part in parts if part is not None}
    wanted = {
        "test": 0.0 if "test" in fixed else test_share,
        "validation": 0.0 if "validation" in fixed else validation_share,
    }
    if wanted["test"] or wanted["validation"]:
        # What was given as train is free to be split further.
        free = np.array([part in (None, "train") for part in parts])
        _assign(parts, np.asarray(labels), groups, free, wanted, seed)
    final = np.array([part or "train" for part in parts])
    outside = set(groups[final != "test"].tolist())
    leaked = np.array([part == "test" for part in final]) & np.isin(groups, list(outside))
    _check_present(labels, final)
    return Split(final, leaked)


def _assign(
    parts: list[str | None],
    labels: np.ndarray[Any, Any],
    groups: Ints,
    free: np.ndarray[Any, np.dtype[np.bool_]],
    wanted: dict[str, float],
    seed: int,
) -> None:
    members: dict[int, list[int]] = {}
    for i in np.flatnonzero(free):
        members.setdefault(int(groups[i]), []).append(int(i))
    # A group belongs to the label that most of its images have.
    by_label: dict[str, list[int]] = {}
    for group, its_images in members.items():
        label = Counter(labels[its_images].tolist()).most_common(1)[0][0]
        by_label.setdefault(label, []).append(group)
    for number, label in enumerate(sorted(by_label)):
        order = np.random.default_rng([seed, number]).permutation(by_label[label]).tolist()
        needed = 1 + sum(share > 0 for share in wanted.values())
        if len(order) < needed:
            images = sum(len(members[group]) for group in order)
            raise InputError(
                f"label {label!r} has {len(order)} different pictures in {images} images (near-"
                f"duplicates count once), the split needs {needed}: add photographs or drop it"
            )
        total = sum(len(members[group]) for group in order)
        chosen: dict[str, list[int]] = {"train": order}
        for part, share in wanted.items():
            if share:
                needed -= 1
                room = max(1, round(share * total))
                chosen[part], chosen["train"] = _take(chosen["train"], members, room, needed)
        for part, its in chosen.items():
            for group in its:
                for image in members[group]:
                    parts[image] = part


def _take(
    order: list[int], members: dict[int, list[int]], room: int, keep: int
) -> tuple[list[int], list[int]]:
    """Groups of at most `room` images together, in order, and the rest, at least `keep` groups.

    Where no group fits, the smallest is taken all the same.
    """
    taken: list[int] = []
    for group in order:
        if len(members[group]) <= room and len(order) - len(taken) > keep:
            taken.append(group)
            room -= len(members[group])
    taken = taken or [min(order, key=lambda group: len(members[group]))]
    return taken, [group for group in order if group not in taken]


def _check_present(labels: Sequence[str], parts: np.ndarray[Any, Any]) -> None:
    counts = Counter(zip(labels, parts.tolist(), strict=True))
    for label in sorted(set(labels)):
        if not counts[label, "train"]:
            raise InputError(
                f"label {label!r} has no image to train on: add photographs, or drop it from the "
                "test and validation parts"
            )


def fold_images(
    labels: Sequence[str],
    groups: Ints,
    eligible: np.ndarray[Any, np.dtype[np.bool_]],
    folds: int,
    validation_share: float,
    seed: int,
) -> list[np.ndarray[Any, Any]]:
    """The parts of each of some folds, whole groups at a time, seeded: names of PARTS, and "" for
    an image that is in none.

    Every eligible image is in the test part of one fold; of the others of that fold a share is its
    validation part. Raises InputError for a label with too few different pictures.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    where = np.flatnonzero(eligible)
    its_labels, its_groups = np.asarray(labels)[where], groups[where]
    several = min(folds, len(set(its_groups.tolist())))
    if several < 2:
        raise InputError(f"--folds {folds} needs two different pictures at least: add photographs")
    cutter = StratifiedGroupKFold(several, shuffle=True, random_state=seed)
    found = []
    with warnings.catch_warnings():
        # A label with fewer pictures than folds is not in the test part of each; that is fine.
        warnings.simplefilter("ignore", UserWarning)
        cuts = list(cutter.split(its_labels, its_labels, its_groups))
    for number, (_, test) in enumerate(cuts):
        given: list[str | None] = [None] * len(where)
        for i in test:
            given[i] = "test"
        try:
            split = split_images(
                its_labels.tolist(), its_groups, given, validation_share, 0.0, seed + number
            )
        except InputError as error:
            raise InputError(f"{error} (with --folds {folds})") from error
        parts = np.full(len(labels), "", dtype="<U10")
        parts[where] = split.parts
        found.append(parts)
    return found
