"""Figures of a classifier from its logits: accuracy, loss, confusion, per-label results.

What goes into a file is made of JSON's types alone, with None where a figure is not defined.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from monkeyray.arrays import Array

_Z95 = 1.959963984540054


def wilson(share: float | None, images: int) -> tuple[float, float] | None:
    """The 95% Wilson score interval of a share of `images`; None where there is no share.

    Wilson, JASA 22 (1927). Unlike the usual normal interval it stays within 0 to 1, and has a
    width where all or none of the images count.

    >>> low, high = wilson(0.5, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    if share is None or not images:
        return None
    z2 = _Z95**2 / images
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z95 * math.sqrt(share * (1 - share) / images + z2 / (4 * images)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def softmax(logits: Array) -> Array:
    """Probabilities of shape (n, labels) from logits, each row's sum 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def cross_entropy(logits: Array, truth: Array) -> float:
    """Mean negative log likelihood in nats; `truth`: int label indices of shape (n,)."""
    peak = logits.max(axis=1)
    total = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
    return float(np.mean(total - logits[np.arange(len(truth)), truth]))


def confusion(truth: Array, predicted: Array, labels: int) -> Array:
    """Counts of shape (labels, labels): row the true label, column the predicted one."""
    return np.bincount(truth * labels + predicted, minlength=labels * labels).reshape(
        labels, labels
    )


def top_k_accuracy(logits: Array, truth: Array, k: int) -> float | None:
    """Share of images whose true label is among the `k` largest logits; None without images.

    Of equal logits the earlier label counts as larger, as argmax has it, so that k = 1 is the
    accuracy.
    """
    if not len(truth):
        return None
    own = logits[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(logits.shape[1]) < truth[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return float(np.mean(rank < k))


def summarise(logits: Array, truth: Array) -> dict[str, Any]:
    """Accuracy and loss of some images, as the bundle's metrics have them; None without images."""
    some = len(truth) > 0
    return {
        "images": len(truth),
        "accuracy": float(np.mean(logits.argmax(axis=1) == truth)) if some else None,
        "loss": cross_entropy(logits, truth) if some else None,
    }


def evaluate(logits: Array, truth: Array, labels: list[str]) -> dict[str, Any]:
    """All figures of a split: `summarise`, the confusion matrix, and precision, recall and F1.

    `logits`: float (n, labels); `truth`: int label indices (n,). A ratio whose denominator is 0 is
    None; the macro means, in which every label weighs the same, leave such labels out.
    `macro_recall` is what others call balanced accuracy. An `…_interval` is the 95% Wilson
    interval [low, high] of its share. `top_k_accuracy` has the k below the number of labels.
    """
    matrix = confusion(truth, logits.argmax(axis=1), len(labels))
    hits, actual, claimed = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    rows = []
    for i, label in enumerate(labels):
        precision, recall = _ratio(hits[i], claimed[i]), _ratio(hits[i], actual[i])
        rows.append(
            {
                "label": label,
                "images": int(actual[i]),
                "predicted": int(claimed[i]),
                "precision": precision,
                "precision_interval": _interval(precision, claimed[i]),
                "recall": recall,
                "recall_interval": _interval(recall, actual[i]),
                "f1": _ratio(2 * hits[i], actual[i] + claimed[i]),
            }
        )
    summary = summarise(logits, truth)
    return {
        **summary,
        "accuracy_interval": _interval(summary["accuracy"], len(truth)),
        "top_k_accuracy": {
            str(k): top_k_accuracy(logits, truth, k) for k in (2, 3, 5) if k < len(labels)
        },
        "macro_precision": _mean([row["precision"] for row in rows]),
        "macro_recall": _mean([row["recall"] for row in rows]),
        "macro_f1": _mean([row["f1"] for row in rows]),
        "confusion": matrix.tolist(),
        "per_label": rows,
    }


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _interval(share: float | None, images: int) -> list[float] | None:
    bounds = wilson(share, int(images))
    return list(bounds) if bounds else None


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
