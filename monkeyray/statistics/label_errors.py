"""Likely label errors, by confident learning.

Northcutt, Jiang, Chuang: "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70,
2021. The probabilities must be out-of-fold: a model trained on a wrong label may have learned it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from monkeyray.arrays import Array, Ints


@dataclass(frozen=True)
class LabelError:
    """An image, by its index, that probably shows `suggested` rather than `given` (label indices).

    `quality` as in `label_quality`. `sure`: the image is off the diagonal of the confident joint,
    i.e. confidently shows `suggested`; otherwise that label is merely likelier. `images`: how many
    of its sequence have the label; the image is the one that most likely shows `suggested`.
    """

    index: int
    given: int
    suggested: int
    quality: float
    sure: bool
    images: int = 1


def label_quality(probabilities: Array, truth: Array) -> Array:
    """The probability of each image's given label ("self-confidence"): float64 (n,), 0 to 1.

    `probabilities`: out-of-fold, (n, labels); `truth`: given int label indices (n,).
    """
    return np.asarray(probabilities, np.float64)[np.arange(len(truth)), truth]


def label_errors(
    probabilities: Array, truth: Array, sequences: Ints | None = None
) -> list[LabelError]:
    """Images whose label is likely wrong, lowest quality first; ties in the order of the images.

    They are off the diagonal of the confident joint, or another label is likelier than the given
    one. Arguments as in `label_quality`; `sequences`: equal numbers for images of a sequence,
    int (n,). Those of them that have one label are judged together, by their mean probabilities: an
    animal that is in a sequence need not be in each of its images.
    """
    if sequences is not None:
        return _by_sequence(np.asarray(probabilities, np.float64), truth, sequences)
    shown = _confident(probabilities, truth)
    quality = label_quality(probabilities, truth)
    sure = (shown >= 0) & (shown != truth)
    likelier = probabilities.max(axis=1) > np.asarray(probabilities)[np.arange(len(truth)), truth]
    suggested = np.where(sure, shown, probabilities.argmax(axis=1))
    suspects = np.flatnonzero(sure | likelier)
    return [
        LabelError(int(i), int(truth[i]), int(suggested[i]), float(quality[i]), bool(sure[i]))
        for i in suspects[np.argsort(quality[suspects], kind="stable")]
    ]


def _by_sequence(probabilities: Array, truth: Array, sequences: Ints) -> list[LabelError]:
    keys = np.stack([sequences, truth])
    _, first, unit, sizes = np.unique(
        keys, axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    unit = unit.ravel()  # NumPy 2.0.0 returns two dimensions
    mean = np.zeros((len(sizes), probabilities.shape[1]))
    np.add.at(mean, unit, probabilities / sizes[unit, None])
    members = np.split(np.argsort(unit, kind="stable"), np.cumsum(sizes)[:-1])
    found = []
    for each in label_errors(mean, truth[first]):
        its = members[each.index]
        best = int(its[probabilities[its, each.suggested].argmax()])
        found.append(replace(each, index=best, images=len(its)))
    return found


def _confident(probabilities: Array, truth: Array) -> Array:
    """The label that each image confidently shows, int (n,); -1 for none.

    That is a label whose probability is at least its mean over the images given it; the likeliest
    of several.
    """
    exact = np.asarray(probabilities, np.float64)
    labels = exact.shape[1]
    images = np.bincount(truth, minlength=labels)
    sums = np.bincount(truth, label_quality(exact, truth), minlength=labels)
    # No image confidently shows a label that none was given. The tolerance is for rounding: the
    # mean of equal numbers may exceed them.
    thresholds = np.where(images > 0, sums / np.maximum(images, 1) - 1e-12, np.inf)
    possible = np.where(exact >= thresholds, exact, -1.0)
    return np.where(possible.max(axis=1) >= 0, possible.argmax(axis=1), -1)
