"""Likely label errors: images whose given label the model, trained without them, does not believe.

Confident learning (Northcutt, Jiang, Chuang: "Confident Learning: Estimating Uncertainty in Dataset
Labels", JAIR 70, 2021). The probabilities have to be out-of-fold: a model that has seen an image
with its wrong label may well have learned it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monkeyray.arrays import Array


@dataclass(frozen=True)
class LabelError:
    """An image, by its index, that probably shows `suggested` and not `given` (label indices).

    `quality` is that of `label_quality`. `sure`: it is off the diagonal of the confident joint;
    if not, the suggested label is merely the likelier one.
    """

    index: int
    given: int
    suggested: int
    quality: float
    sure: bool


def label_quality(probabilities: Array, truth: Array) -> Array:
    """How far every image's given label is believed, float64 (n,), 0 to 1.

    It is the given label's own probability. On photographs of ten species with 3% of the labels
    swapped it ranked the swapped ones a little better than the margin to the likeliest other
    label. `probabilities`: out-of-fold, (n, labels); `truth`: given int label indices (n,).
    """
    return np.asarray(probabilities, np.float64)[np.arange(len(truth)), truth]


def confident_joint(probabilities: Array, truth: Array) -> Array:
    """Counts (labels, labels): row the given label, column the one that an image surely shows.

    An image surely shows a label whose probability is at least the mean that the images given that
    label have for it; the likeliest where there are several. Images that surely show nothing are
    not counted. Off the diagonal are the likely errors.
    """
    labels = probabilities.shape[1]
    shown = _surely(probabilities, truth)
    sure = shown >= 0
    return np.bincount(truth[sure] * labels + shown[sure], minlength=labels * labels).reshape(
        labels, labels
    )


def label_errors(probabilities: Array, truth: Array) -> list[LabelError]:
    """The images whose label is likely wrong, the least believed first.

    These are the images off the diagonal of the confident joint, and those for which another label
    is likelier than the given one: of labels swapped on purpose a quarter was in the latter alone.
    Arguments as of `label_quality`. Of equal quality the earlier image comes first.
    """
    shown = _surely(probabilities, truth)
    quality = label_quality(probabilities, truth)
    sure = (shown >= 0) & (shown != truth)
    likelier = probabilities.max(axis=1) > np.asarray(probabilities)[np.arange(len(truth)), truth]
    suggested = np.where(sure, shown, probabilities.argmax(axis=1))
    suspects = np.flatnonzero(sure | likelier)
    return [
        LabelError(int(i), int(truth[i]), int(suggested[i]), float(quality[i]), bool(sure[i]))
        for i in suspects[np.argsort(quality[suspects], kind="stable")]
    ]


def _surely(probabilities: Array, truth: Array) -> Array:
    """The label that each image surely shows, int (n,), -1 where none."""
    exact = np.asarray(probabilities, np.float64)
    labels = exact.shape[1]
    images = np.bincount(truth, minlength=labels)
    sums = np.bincount(truth, label_quality(exact, truth), minlength=labels)
    # Nothing can surely show a label that nothing was given. The hair's breadth is for rounding:
    # the mean of equal numbers may come out above them.
    thresholds = np.where(images > 0, sums / np.maximum(images, 1) - 1e-12, np.inf)
    possible = np.where(exact >= thresholds, exact, -1.0)
    return np.where(possible.max(axis=1) >= 0, possible.argmax(axis=1), -1)
