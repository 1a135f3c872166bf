"""Temperature scaling, and how well scores are calibrated.

Modern networks are overconfident. Dividing the logits by a temperature T before the softmax
corrects most of that without changing a prediction (Guo et al., "On Calibration of Modern Neural
Networks", ICML 2017). T must be fitted on images that the network was not trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.statistics.metrics import cross_entropy, softmax, wilson

#: Bins of the top score, as in Guo et al.
BINS = 15

_RESAMPLES = 1000

#: Bounds of the temperature, for fits on few images.
LEAST, MOST = 0.05, 20.0


def fit_temperature(logits: Array, truth: Array) -> float:
    """The T in [LEAST, MOST] that minimises the cross-entropy of `softmax(logits / T)`.

    `logits`: float (n, labels); `truth`: int label indices (n,). The loss is unimodal in log T. One
    error is added to those observed (the rule of succession): an average image whose true label is
    its second likeliest. Otherwise T would go to 0 where every image is right. 1.0 without images.
    """
    from scipy.optimize import minimize_scalar

    if not len(truth):
        return 1.0
    exact = np.asarray(logits, np.float64)
    second = np.argsort(exact, axis=1, kind="stable")[:, -2]

    def loss(log_t: float) -> float:
        scaled = exact / np.exp(log_t)
        return len(truth) * cross_entropy(scaled, truth) + cross_entropy(scaled, second)

    found = minimize_scalar(
        loss,
        bounds=(np.log(LEAST), np.log(MOST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def expected_calibration_error(confidence: Array, correct: Array, bins: int = BINS) -> float | None:
    """ECE, 0 to 1: the mean |accuracy - mean score| of bins, weighted by their images.

    `confidence`: top scores, float (n,) in 0-1; `correct`: bool (n,). There are `bins` bins of
    equal width, (0, 1/bins] to (1 - 1/bins, 1] (Guo et al. 2017, eq. 3). None without images.
    """
    if not len(confidence):
        return None
    gap = np.asarray(correct, np.float64) - np.asarray(confidence, np.float64)
    # A bin's weight times its mean gap is the sum of its gaps divided by all images.
    sums = np.bincount(_bin(confidence, bins), gap, minlength=bins)
    return float(np.abs(sums).sum() / len(gap))


def ece_interval(confidence: Array, correct: Array) -> list[float] | None:
    """The 95% percentile bootstrap interval [low, high] of the ECE; None without images.

    A resample draws how many images fall into each bin, and then the sum of their gaps, from the
    normal distribution with the mean and variance of that many draws. Drawing the images one by one
    gives almost the same interval, and takes 700 times as long for a million.

    ECE is biased upwards on few images, and so is this interval.
    """
    images = len(confidence)
    if not images:
        return None
    gap = np.asarray(correct, np.float64) - np.asarray(confidence, np.float64)
    which = _bin(confidence, BINS)
    counts = np.bincount(which, minlength=BINS)
    mean = np.bincount(which, gap, BINS) / np.maximum(counts, 1)
    variance = np.bincount(which, (gap - mean[which]) ** 2, BINS) / np.maximum(counts, 1)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(images, counts / images, _RESAMPLES)
    sums = drawn * mean + np.sqrt(drawn * variance) * rng.standard_normal(drawn.shape)
    values = np.abs(sums).sum(axis=1) / images
    return [float(x) for x in np.percentile(values, [2.5, 97.5])]


def reliability(confidence: Array, correct: Array, bins: int = BINS) -> list[dict[str, Any]]:
    """Rows of a reliability diagram: the bins of `expected_calibration_error`, lowest first.

    Each has the bounds `low` and `high`, its number of `images`, their mean `confidence`, their
    `accuracy` and its 95% Wilson `interval`; the last three are None in an empty bin.
    """
    which = _bin(confidence, bins)
    rows: list[dict[str, Any]] = []
    for i in range(bins):
        inside = which == i
        images = int(inside.sum())
        accuracy = float(np.mean(correct[inside])) if images else None
        rows.append(
            {
                "low": i / bins,
                "high": (i + 1) / bins,
                "images": images,
                "confidence": float(np.mean(confidence[inside])) if images else None,
                "accuracy": accuracy,
                "interval": wilson(accuracy, images),
            }
        )
    return rows


def calibrate(logits: Array, truth: Array, temperature: float | None = None) -> dict[str, Any]:
    """The temperature and its effect on these images, in JSON types.

    `logits`: float (n, labels); `truth`: int label indices (n,). The temperature is fitted on these
    images unless given; a test split must be given one. `before` and `after` have `loss` in nats,
    `ece`, `ece_interval` and `reliability`.
    """
    chosen = fit_temperature(logits, truth) if temperature is None else float(temperature)
    exact = np.asarray(logits, np.float64)
    return {
        "images": len(truth),
        "temperature": chosen,
        "fitted_here": temperature is None,
        "bins": BINS,
        "before": _metrics(exact, truth),
        "after": _metrics(exact / chosen, truth),
    }


def _metrics(logits: Array, truth: Array) -> dict[str, Any]:
    confidence = softmax(logits).max(axis=1)
    correct = logits.argmax(axis=1) == truth
    return {
        "loss": cross_entropy(logits, truth) if len(truth) else None,
        "ece": expected_calibration_error(confidence, correct),
        "ece_interval": ece_interval(confidence, correct),
        "reliability": reliability(confidence, correct),
    }


def _bin(confidence: Array, bins: int) -> Array:
    edges = np.arange(1, bins) / bins
    # 'left' puts a score on an edge into the bin below it.
    return np.searchsorted(edges, np.asarray(confidence, np.float64), side="left")
