"""What more labels would bring: a power law through the errors of heads on parts of the images."""

from __future__ import annotations

import numpy as np

from monkeyray.arrays import Array, Ints


def part_ranks(truth: Ints, groups: Ints, fold: Ints, seed: int) -> Array:
    """The place of each image among those of its label and fold, float (n,) from 0 to below 1, in
    an order that keeps groups together.

    The images below a share are about that share of each label in each fold, one at least.
    """
    numbers = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups]
    _, cell = np.unique(np.stack([truth, fold]), axis=1, return_inverse=True)
    cell = cell.ravel()
    order = np.lexsort((numbers, cell))
    sizes = np.bincount(cell)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranks = np.empty(len(truth))
    ranks[order] = (np.arange(len(truth)) - starts) / sizes[cell[order]]
    return ranks


def expected_accuracy(sizes: Array, accuracies: Array, images: int, wanted: Array) -> Array:
    """The accuracies expected of heads on `wanted` numbers of images, float (m,), 0 to 1.

    `sizes`: the images that some heads were trained on (k,), k at least 2; `accuracies`: theirs on
    the same `images` images. Errors fall as a power of the number of images (Hestness et al.,
    "Deep Learning Scaling is Predictable, Empirically", 2017), and never rise. Half an error is
    added, so that no error at all can be extrapolated too.
    """
    errors = ((1 - accuracies) * images + 0.5) / (images + 1)
    slope, level = np.polyfit(np.log(sizes), np.log(errors), 1)
    return np.asarray(1 - np.minimum(1, np.exp(level + min(slope, 0.0) * np.log(wanted))))
