"""Train, validation and test splits, and folds, that never share a group of images."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monkeyray.arrays import Array, Flags, Ints
from monkeyray.errors import InputError

SPLITS = ("train", "validation", "test")

#: Attempts where groups hold several labels.
_ATTEMPTS = 20

#: The mean error of the labels' shares below which no further attempt is made.
_CLOSE = 0.01


@dataclass(frozen=True)
class Assignment:
    """`names`: a name of SPLITS per image. `leaked`: test images (bool) whose group is in another
    split too; `validation_leaked`: validation images (bool) whose group is in train too. Only given
    splits can leak."""

    names: Array
    leaked: Flags
    validation_leaked: Flags


def split_images(
    labels: Sequence[str],
    groups: Ints,
    given: Sequence[str | None],
    validation_share: float,
    test_share: float,
    seed: int,
    pictures: Ints | None = None,
) -> Assignment:
    """Assign each image to a split, stratified by label, in whole groups, by the seed.

    `given`: the fixed splits, None where free. If some are given but no validation (or no test),
    that share is taken from train, in groups that have no given validation or test image; given
    images keep their split, and `leaked` and `validation_leaked` mark those that share a group with
    another split. A label is missing from a new split only if its groups hold other labels too, or
    an image of a given split.

    `pictures`: group numbers by picture alone, for error messages; `groups` by default.
    Raises InputError for a label in too few groups to be in every split.
    """
    splits: list[str | None] = list(given)
    fixed = {split for split in splits if split is not None}
    wanted = {
        split: share
        for split, share in (("test", test_share), ("validation", validation_share))
        if share and split not in fixed
    }
    # Images given as train may be split further.
    free = np.array([split in (None, "train") for split in splits])
    if wanted and free.any():
        _check_groups(
            labels, groups, free, len(wanted) + 1, groups if pictures is None else pictures
        )
        _assign(splits, labels, groups, free, wanted, seed)
    final = np.array([split or "train" for split in splits])
    _check_present(labels, final)
    return Assignment(
        final,
        (final == "test") & np.isin(groups, groups[final != "test"]),
        (final == "validation") & np.isin(groups, groups[final == "train"]),
    )


def _check_groups(
    labels: Sequence[str],
    groups: Ints,
    free: Flags,
    needed: int,
    pictures: Ints,
) -> None:
    its: dict[str, list[int]] = {}
    for i in np.flatnonzero(free).tolist():
        its.setdefault(labels[i], []).append(i)
    for label, images in sorted(its.items()):
        several = len(set(groups[images].tolist()))
        if several >= needed:
            continue
        different = len(set(pictures[images].tolist()))
        if different > several:
            raise InputError(
                f"label {label!r} is in {several} groups ({different} different pictures in "
                f"{len(images)} images), the split needs {needed}, since groups stay together: add "
                "photographs of it from other groups, make the groups smaller, or drop it"
            )
        raise InputError(
            f"label {label!r} has {several} different pictures in {len(images)} images (near-"
            f"duplicates count once), the split needs {needed}: add photographs or drop it"
        )


def _assign(
    splits: list[str | None],
    labels: Sequence[str],
    groups: Ints,
    free: Flags,
    wanted: dict[str, float],
    seed: int,
) -> None:
    """Fill in the split of each free image."""
    # A group with an image of a given split stays in train.
    loose = free & ~np.isin(groups, groups[~free])
    totals = Counter(label for label, is_free in zip(labels, free, strict=True) if is_free)
    counts: dict[int, Counter[str]] = {}
    for i in np.flatnonzero(loose).tolist():
        counts.setdefault(int(groups[i]), Counter())[labels[i]] += 1
    sides = divide(counts, totals, {"train": 1 - sum(wanted.values()), **wanted}, seed)
    for split in wanted:
        if split not in sides.values():
            raise InputError(
                f"no image can be in the {split} split: each shares a group with an image of a "
                f"given split; give {split} images too, or take such copies out"
            )
    for i in np.flatnonzero(free).tolist():
        splits[i] = sides.get(int(groups[i]), "train")


def divide(
    counts: Mapping[int, Mapping[str, int]],
    totals: Mapping[str, int],
    shares: Mapping[str, float],
    seed: int,
) -> dict[int, str]:
    """The side of each group, so that each side has about its share of every label.

    `counts`: images by label of each group; `totals`: all images by label, of which the first side
    has those that are in no group. The first side gets every label; the others do if its groups
    suffice. This is iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, "On the
    stratification of multi-label data") of whole groups: the best of some attempts.
    """
    mixed = any(len(its) > 1 for its in counts.values())
    found = []
    for attempt in range(_ATTEMPTS if mixed else 1):
        found.append(_divide(counts, totals, shares, np.random.default_rng([seed, attempt])))
        lacking, deviation, _ = found[-1]
        if not lacking and deviation < _CLOSE:
            break
    return min(found, key=lambda each: each[:2])[2]


def _divide(
    counts: Mapping[int, Mapping[str, int]],
    totals: Mapping[str, int],
    shares: Mapping[str, float],
    rng: np.random.Generator,
) -> tuple[int, float, dict[int, str]]:
    """One attempt: how often a side lacks a label, how far the shares are off, and the sides."""
    members: dict[str, list[int]] = {label: [] for label in sorted(totals)}
    for group, its in counts.items():
        for label in its:
            members[label].append(group)
    first = next(iter(shares))
    left = {label: len(groups) for label, groups in members.items()}
    # The images still to come, by side and label.
    wanted = {side: {x: share * totals[x] for x in members} for side, share in shares.items()}
    lacks = {side: set(members) for side in shares}
    for label, groups in members.items():
        outside = totals[label] - sum(counts[group][label] for group in groups)
        wanted[first][label] -= outside
        if outside:
            lacks[first].discard(label)
    sides: dict[int, str] = {}
    # The label in the fewest groups has the least choice.
    for label, groups in sorted(members.items(), key=lambda item: len(item[1])):
        still = rng.permutation([x for x in groups if x not in sides]).tolist()
        for group in sorted(still, key=lambda x: -counts[x][label]):
            # The last group of a label that the first side lacks has to go there.
            if any(left[x] == 1 and x in lacks[first] for x in counts[group]):
                side = first
            else:
                side = max(shares, key=lambda x: (label in lacks[x], wanted[x][label]))
            sides[group] = side
            lacks[side].difference_update(counts[group])
            for x, count in counts[group].items():
                wanted[side][x] -= count
                left[x] -= 1
    off = [abs(wanted[side][x]) / totals[x] for side in shares for x in members]
    return sum(map(len, lacks.values())), float(np.mean(off)), sides


def _check_present(labels: Sequence[str], splits: Array) -> None:
    counts = Counter(zip(labels, splits.tolist(), strict=True))
    for label in sorted(set(labels)):
        if not counts[label, "train"]:
            raise InputError(
                f"label {label!r} has no image to train on: add photographs, or drop it from the "
                "test and validation splits"
            )


def fold_images(
    labels: Sequence[str],
    groups: Ints,
    eligible: Flags,
    folds: int,
    validation_share: float,
    seed: int,
    pictures: Ints | None = None,
) -> list[Array]:
    """The splits of each fold, in whole groups, by the seed: names of SPLITS, or "" for images that
    are not eligible.

    Every eligible image is in the test split of one fold; a share of the others is the validation
    split of that fold. There are at most as many folds as groups, and as images of the commonest
    label. `pictures`: see split_images. Raises InputError for a label in too few groups.
    """
    where = np.flatnonzero(eligible)
    its_labels, its_groups = [labels[i] for i in where.tolist()], groups[where]
    its_pictures = its_groups if pictures is None else pictures[where]
    commonest = max(Counter(its_labels).values(), default=0)
    several = min(folds, len(set(its_groups.tolist())), commonest)
    if several < 2:
        raise InputError(
            f"--folds {folds} needs at least two different pictures, and a label with two "
            "images: add photographs"
        )
    pairs = Counter(label for label, _ in set(zip(its_labels, its_groups.tolist(), strict=True)))
    # A label in two groups always misses one of the three splits in some fold.
    attempts = _ATTEMPTS if min(pairs.values()) > 2 else 1
    for attempt in range(attempts):
        try:
            cut = _cut_folds(
                its_labels, its_groups, its_pictures, several, validation_share, seed, attempt
            )
            break
        except InputError as error:
            if attempt == attempts - 1:
                raise InputError(f"{error} (with --folds {folds})") from error
    found = []
    for each in cut:
        splits = np.full(len(labels), "", dtype="<U10")
        splits[where] = each
        found.append(splits)
    return found


def _cut_folds(
    labels: list[str],
    groups: Ints,
    pictures: Ints,
    folds: int,
    validation_share: float,
    seed: int,
    attempt: int,
) -> list[Array]:
    from sklearn.model_selection import StratifiedGroupKFold

    # Not seed + attempt, since each fold uses seed + its number.
    state = seed if not attempt else int(np.random.default_rng([seed, attempt]).integers(2**32))
    cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=state)
    with warnings.catch_warnings():
        # A label with fewer pictures than folds is not in every test split, which is fine.
        warnings.simplefilter("ignore", UserWarning)
        cuts = list(cutter.split(labels, labels, groups))
    found = []
    for number, (_, test) in enumerate(cuts):
        given: list[str | None] = [None] * len(labels)
        for i in test:
            given[i] = "test"
        assigned = split_images(
            labels, groups, given, validation_share, 0.0, seed + number, pictures
        )
        found.append(assigned.names)
    return found
