"""Metrics of a classifier from its logits: accuracy, loss, confusion matrix, results per label.

Dictionaries hold JSON types only; an undefined metric is None.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from monkeyray.arrays import Array

_Z95 = 1.959963984540054


def wilson(share: float | None, images: int) -> list[float] | None:
    """The 95% Wilson score interval [low, high] of a proportion of `images`; None without images.

    Wilson, JASA 22 (1927). Unlike the normal approximation, it stays within 0 to 1 and keeps a
    width at 0 and 1. Written out because importing SciPy takes longer than the commands that
    print it.

    >>> [round(bound, 3) for bound in wilson(0.5, 100)]
    [0.404, 0.596]
    """
    if share is None or not images:
        return None
    z2 = _Z95**2 / images
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z95 * math.sqrt(share * (1 - share) / images + z2 / (4 * images)) / (1 + z2)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def softmax(logits: Array) -> Array:
    """Probabilities of shape (n, labels) from logits (n, labels); each row sums to 1."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def cross_entropies(logits: Array, truth: Array) -> Array:
    """Negative log likelihoods (n,) in nats; `truth`: int label indices of shape (n,)."""
    peak = logits.max(axis=1)
    total = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
    return np.asarray(total - logits[np.arange(len(truth)), truth])


def cross_entropy(logits: Array, truth: Array) -> float:
    """The mean of `cross_entropies`."""
    return float(np.mean(cross_entropies(logits, truth)))


def confusion(truth: Array, predicted: Array, labels: int) -> Array:
    """Confusion matrix: counts (labels, labels), a row per true label, a column per prediction."""
    return np.bincount(truth * labels + predicted, minlength=labels * labels).reshape(
        labels, labels
    )


def top_k_accuracy(logits: Array, truth: Array, k: int) -> float | None:
    """The share of images whose true label is among the `k` largest logits; None without images.

    Ties go to the earlier label, as in argmax, so k = 1 gives the accuracy.
    """
    if not len(truth):
        return None
    own = logits[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(logits.shape[1]) < truth[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return float(np.mean(rank < k))


def accuracy_and_loss(logits: Array, truth: Array) -> dict[str, Any]:
    """Number of images, accuracy, and cross-entropy in nats; the last two None without images."""
    some = len(truth) > 0
    return {
        "images": len(truth),
        "accuracy": float(np.mean(logits.argmax(axis=1) == truth)) if some else None,
        "loss": cross_entropy(logits, truth) if some else None,
    }


def classification_metrics(logits: Array, truth: Array, labels: list[str]) -> dict[str, Any]:
    """`accuracy_and_loss`, the confusion matrix, and precision, recall and F1 per label.

    `logits`: float (n, labels); `truth`: int label indices (n,). A ratio with a denominator of 0 is
    None, and the macro means (every label counts the same) leave it out. `macro_recall` is also
    known as balanced accuracy. An `…_interval` is a 95% Wilson interval [low, high].
    `top_k_accuracy` has an entry for each k of 2, 3 and 5 below the number of labels.
    """
    matrix = confusion(truth, logits.argmax(axis=1), len(labels))
    hits, actual, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    rows = []
    for i, label in enumerate(labels):
        precision, recall = _ratio(hits[i], predicted[i]), _ratio(hits[i], actual[i])
        rows.append(
            {
                "label": label,
                "images": int(actual[i]),
                "predicted": int(predicted[i]),
                "precision": precision,
                "precision_interval": wilson(precision, int(predicted[i])),
                "recall": recall,
                "recall_interval": wilson(recall, int(actual[i])),
                "f1": _ratio(2 * hits[i], actual[i] + predicted[i]),
            }
        )
    overall = accuracy_and_loss(logits, truth)
    return {
        **overall,
        "accuracy_interval": wilson(overall["accuracy"], len(truth)),
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


def _mean(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
