"""Folds that never share a group of images or a location, and a test split apart from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monkeyray.arrays import Array, Flags, Ints
from monkeyray.errors import InputError

#: In place of a fold: an image that all heads learn from, and a test image, which none learns from.
IN_NO_FOLD, TEST = -1, -2

#: Locations that a label needs to be tested at one that a head has not seen.
LEAST_LOCATIONS = 3

#: The share of each location's groups that a head which learns from the location does not see.
HELD_BACK = 0.2


@dataclass(frozen=True)
class Folds:
    """`truth`: the label indices of all images, int (n,). `fold`: the fold of each, int (n,), or
    IN_NO_FOLD or TEST. `weight`: the weight of each image in the losses, float (n,),
    None for equal weights. `second`: a second fold whose head does not learn from the image, int
    (n,), or IN_NO_FOLD; None without any, see fold_locations.
    """

    truth: Array
    fold: Array
    weight: Array | None = None
    second: Array | None = None

    @property
    def count(self) -> int:
        """The number of folds."""
        return max(0, int(self.fold.max()) + 1)

    def held_out(self, heads: int) -> Array:
        """Indices of the images that one of the first `heads` heads is measured on: it learns
        neither from them nor, if folds are of locations, from others of their locations."""
        return np.flatnonzero((self.fold >= 0) & (self.fold < heads))

    def held_back(self, heads: int) -> Array:
        """Indices of the images of which one of the first `heads` heads, their `second`, has seen
        the location, but not them."""
        if self.second is None:
            return np.empty(0, np.int64)
        return np.flatnonzero((self.fold >= 0) & (self.second >= 0) & (self.second < heads))

    def learned(self, heads: int) -> Array:
        """Indices of the images that any of the first `heads` heads learns from."""
        alone = self.seen(np.arange(len(self.fold)), 1)[:, 0] == 0
        return np.flatnonzero((self.fold != TEST) & ~(alone & (heads == 1)))

    def seen(self, images: Array, heads: int) -> Array:
        """1 where a head learns from an image, else 0, float (*images.shape, heads)."""
        numbers = np.arange(heads)
        seen = self.fold[images][..., None] != numbers
        if self.second is not None:
            seen &= self.second[images][..., None] != numbers
        return np.asarray(seen, float)


def fold_images(
    labels: Sequence[str],
    groups: Ints,
    test: Flags,
    folds: int,
    seed: int,
    first: Flags | None = None,
) -> Ints:
    """Assign each image to a fold, int (n,) from 0: stratified by label, whole groups, seeded.

    `test`: images that are TEST instead. `first`: images that go into fold 0, with their groups. If
    all images of a label would be in one fold, they and their groups are IN_NO_FOLD: a head cannot
    be measured on a label that it has never seen. With fewer groups than folds, there are fewer
    folds.

    Raises InputError if a label has only test images, and if no label is in two groups.
    """
    names, truth = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    fold = np.where(test, TEST, IN_NO_FOLD)
    kept = np.flatnonzero(~test)
    absent = np.flatnonzero(np.bincount(truth[kept], minlength=len(names)) == 0)
    if len(absent):
        raise InputError(
            f"label {str(names[absent[0]])!r} has no image to train on: add photographs, or drop "
            "it from the test split"
        )
    _, its_group = np.unique(groups[kept], return_inverse=True)
    # Images by group and label: most groups have one label.
    pairs, counts = np.unique(its_group * len(names) + truth[kept], return_counts=True)
    group_of, label_of = np.divmod(pairs, len(names))
    sides = _deal(
        group_of,
        label_of,
        counts,
        None if first is None else np.unique(its_group[first[kept]]),
        folds,
        seed,
    )
    _withdraw(sides, group_of, label_of, len(names))
    used, renumbered = np.unique(sides[sides >= 0], return_inverse=True)
    if not len(used):
        raise InputError(
            "no label has two different pictures (near-duplicates, and the images of a group or "
            "location, count once): add photographs, or make the groups smaller"
        )
    sides[sides >= 0] = renumbered
    fold[kept] = sides[its_group]
    return fold


def fold_locations(
    labels: Sequence[str],
    groups: Ints,
    places: Ints,
    test: Flags,
    folds: int,
    seed: int,
    first: Flags | None = None,
) -> tuple[Ints, Ints]:
    """Assign whole locations to folds, so that a head is measured at locations it has not seen, and
    keep some groups of each location from a second head, which learns from the rest of it.

    `places`: the location of each image, int (n,), negative where unknown; no group may be at two.
    The other arguments are those of `fold_images`. Returns the fold of each image and its second
    fold, both int (n,), as in Folds:

    - Images of labels at fewer than LEAST_LOCATIONS locations, and those of unknown locations, are
      IN_NO_FOLD. If their location is in a fold, that is their second one, so that its head has
      not seen the location.
    - About HELD_BACK of the groups of each location in a fold, of those with three groups or more,
      have one of the other folds as their second.

    Raises InputError if no label is at LEAST_LOCATIONS locations, and as `fold_images` does.
    """
    names, truth = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    kept = ~test & (places >= 0)
    pairs = np.unique(np.stack([truth[kept], places[kept]]), axis=1)
    tested = kept & (np.bincount(pairs[0], minlength=len(names)) >= LEAST_LOCATIONS)[truth]
    if not tested.any():
        raise InputError(
            f"no label is at {LEAST_LOCATIONS} different locations (those that share duplicates or "
            f"groups count once; {len(np.unique(places[kept]))} are known): add images of other "
            "locations, or give --group-by sequence"
        )
    rows = np.flatnonzero(tested)
    its_fold = fold_images(
        truth[rows].astype(str).tolist(),
        places[rows],
        np.zeros(len(rows), bool),
        folds,
        seed,
        None if first is None else first[rows],
    )
    of_place = np.full(int(places.max()) + 1, IN_NO_FOLD)
    of_place[places[rows]] = its_fold
    whole = np.where(kept, of_place[places], IN_NO_FOLD)
    fold = np.where(test, TEST, np.where(tested, whole, IN_NO_FOLD))
    second = np.where(tested, IN_NO_FOLD, whole)
    rows = np.flatnonzero(fold >= 0)
    second[rows] = _hold_back(truth[rows], groups[rows], places[rows], fold[rows], seed)
    return fold, second


def _hold_back(truth: Ints, groups: Ints, places: Ints, fold: Ints, seed: int) -> Ints:
    """The second fold of images in folds: of about HELD_BACK of each location's groups, in turn one
    of the other folds, else IN_NO_FOLD."""
    _, one, group = np.unique(groups, return_index=True, return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(len(one))
    order = np.lexsort((drawn, places[one]))
    _, starts, sizes = np.unique(places[one][order], return_index=True, return_counts=True)
    rank = np.arange(len(one)) - np.repeat(starts, sizes)
    chosen = order[(rank + 0.5) / np.repeat(sizes, sizes) < HELD_BACK]
    count = int(fold.max()) + 1
    of_group = np.full(len(one), IN_NO_FOLD)
    turn = np.arange(len(chosen)) % (count - 1)
    of_group[chosen] = (fold[one[chosen]] + 1 + turn) % count
    second = of_group[group]
    # A head must know every label that it is measured on.
    learns = np.zeros((int(truth.max()) + 1, count), int)
    for number in range(count):
        np.add.at(learns[:, number], truth, (fold != number) & (second != number))
    lacking = (second >= 0) & (learns[truth, second] == 0)
    of_group[group[lacking]] = IN_NO_FOLD
    return of_group[group]


def _deal(
    group_of: Ints, label_of: Ints, counts: Ints, first: Ints | None, folds: int, seed: int
) -> Ints:
    """The fold of each group. Large groups of rare labels come first, each goes to the fold with
    the smallest share of its labels."""
    groups, labels = int(group_of.max()) + 1, int(label_of.max()) + 1
    totals = np.bincount(label_of, counts, labels)
    sizes = np.bincount(group_of, counts, groups)
    rarest = np.full(groups, np.inf)
    np.minimum.at(rarest, group_of, totals[label_of])
    starts = np.searchsorted(group_of, np.arange(groups + 1))
    sides = np.full(groups, IN_NO_FOLD)
    # Labels in a single group stay out, because _withdraw would take them out again.
    dealt = ~np.isin(np.arange(groups), group_of[(np.bincount(label_of) == 1)[label_of]])
    free = range(folds)
    if first is not None and len(first):
        sides[first[dealt[first]]], free = 0, range(1, folds)
    # What each fold has: its share of each label, and its number of images.
    loads = [[0.0] * labels for _ in range(folds)]
    images = [0.0] * folds
    shuffled = np.random.default_rng(seed).permutation(groups)
    order = shuffled[np.lexsort((-sizes[shuffled], rarest[shuffled]))]
    for group in order[dealt[order] & (sides[order] < 0)].tolist():
        its = slice(starts[group], starts[group + 1])
        has = list(zip(label_of[its].tolist(), counts[its].tolist(), strict=True))
        side = min(free, key=lambda x: (sum(loads[x][label] for label, _ in has), images[x]))
        sides[group] = side
        images[side] += sizes[group]
        for label, count in has:
            loads[side][label] += count / totals[label]
    return sides


def _withdraw(sides: Ints, group_of: Ints, label_of: Ints, labels: int) -> None:
    """Take labels that are in a single fold out of it, with their groups."""
    while True:
        # The lowest and highest fold of each label; "no fold" counts as one.
        lowest, highest = np.full(labels, np.inf), np.full(labels, -np.inf)
        np.minimum.at(lowest, label_of, sides[group_of])
        np.maximum.at(highest, label_of, sides[group_of])
        alone = (lowest == highest) & (lowest >= 0)
        if not alone.any():
            return
        sides[group_of[alone[label_of]]] = IN_NO_FOLD
