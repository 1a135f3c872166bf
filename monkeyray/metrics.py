"""Figures of a classifier from its logits: accuracy, loss, confusion, per-label results."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


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


def summarise(logits: Array, truth: Array) -> dict[str, Any]:
    """Accuracy and loss of some images, as the bundle's metrics have them."""
    return {
        "images": len(truth),
        "accuracy": float(np.mean(logits.argmax(axis=1) == truth)),
        "loss": cross_entropy(logits, truth),
    }


def evaluate(logits: Array, truth: Array, labels: list[str]) -> dict[str, Any]:
    """All figures of a part: `summarise`, the confusion matrix, and precision, recall and F1.

    A ratio whose denominator is 0 is None; the macro means leave such labels out.
    """
    matrix = confusion(truth, logits.argmax(axis=1), len(labels))
    hits, actual, claimed = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    rows = [
        {
            "label": label,
            "images": int(actual[i]),
            "precision": _ratio(hits[i], claimed[i]),
            "recall": _ratio(hits[i], actual[i]),
            "f1": _ratio(2 * hits[i], actual[i] + claimed[i]),
        }
        for i, label in enumerate(labels)
    ]
    return {
        **summarise(logits, truth),
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
