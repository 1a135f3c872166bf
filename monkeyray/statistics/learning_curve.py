"""What more labels would bring: a power law through the errors of heads trained on subsets."""

from __future__ import annotations

import numpy as np

from monkeyray.arrays import Array, Ints


def subset_ranks(truth: Ints, groups: Ints, fold: Ints, seed: int) -> Array:
    """Each image's relative rank within its label and fold, float (n,), in [0, 1), in a seeded
    order that keeps groups together.

    The images with ranks below x are about a fraction x of each label in each fold, at least one.
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
    """The expected accuracy of heads trained on each `wanted` number of images, float (m,), 0 to 1.

    `sizes`: how many images each of k >= 2 heads was trained on (k,); `accuracies`: their
    accuracies (k,), all measured on the same `images` images. Fits a power law (Hestness et al.,
    "Deep Learning Scaling is Predictable, Empirically", 2017) that never rises. Half an error is
    added to each count, so that zero errors can be extrapolated too.
    """
    errors = ((1 - accuracies) * images + 0.5) / (images + 1)
    slope, level = np.polyfit(np.log(sizes), np.log(errors), 1)
    return np.asarray(1 - np.minimum(1, np.exp(level + min(slope, 0.0) * np.log(wanted))))
