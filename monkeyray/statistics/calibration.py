"""Calibration: scores that are right as often as they say, by one temperature on the logits.

A network trained to the end says 0.99 more often than it is right in 99 of 100. Dividing its
logits by a temperature T before the softmax mends most of that and changes no prediction
(Guo et al., "On Calibration of Modern Neural Networks", ICML 2017). T has to come from images that
the network was not trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.statistics.metrics import cross_entropy, softmax, wilson

#: Bins of the top score, as many as Guo et al. have.
BINS = 15

#: No temperature below or above is believed, whatever a few images say.
LEAST, MOST = 0.05, 20.0


def fit_temperature(logits: Array, truth: Array) -> float:
    """The T of `softmax(logits / T)` with the least mean negative log likelihood.

    `logits`: float (n, labels); `truth`: int label indices (n,). The likelihood has one peak over
    log T, which is looked for between LEAST and MOST. One error more than was seen is added, the
    rule of succession: an average image with its second likeliest label for the true one. Without
    it, where every image is right the likelihood would only rise the surer the scores become.
    1.0 without images.
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
    """ECE: how far the top score is from the share of right answers, on average; 0-1.

    `confidence`: top scores, float (n,) in 0-1; `correct`: bool (n,). The images fall into `bins`
    bins of equal width, (0, 1/bins] to (1 - 1/bins, 1]; the bins' |accuracy - mean score| are
    averaged, weighted by their images (Guo et al. 2017, eq. 3). None without images.
    """
    if not len(confidence):
        return None
    gap = np.asarray(correct, np.float64) - np.asarray(confidence, np.float64)
    return _ece(_bin(confidence, bins), gap, bins)


def ece_interval(
    confidence: Array, correct: Array, bins: int = BINS, *, resamples: int = 1000, seed: int = 0
) -> list[float] | None:
    """The 95% percentile bootstrap interval [low, high] of the ECE; None without images.

    Images are drawn with replacement, `resamples` times. The chance in a bin counts as an error
    whichever way it goes, so that the interval of few images lies rather high.
    """
    images = len(confidence)
    if not images:
        return None
    gap = np.asarray(correct, np.float64) - np.asarray(confidence, np.float64)
    which = _bin(confidence, bins)
    rng = np.random.default_rng(seed)
    values = np.empty(resamples)
    for i in range(resamples):
        drawn = rng.integers(0, images, images)
        values[i] = _ece(which[drawn], gap[drawn], bins)
    return [float(x) for x in np.percentile(values, [2.5, 97.5])]


def reliability(confidence: Array, correct: Array, bins: int = BINS) -> list[dict[str, Any]]:
    """The bins of `expected_calibration_error` as rows of a diagram, from low scores to high.

    A row has its bounds `low` and `high`, its `images`, their mean `confidence`, their `accuracy`
    and its 95% Wilson `interval`; the last three are None in an empty bin.
    """
    which = _bin(confidence, bins)
    rows: list[dict[str, Any]] = []
    for i in range(bins):
        inside = which == i
        images = int(inside.sum())
        accuracy = float(np.mean(correct[inside])) if images else None
        bounds = wilson(accuracy, images)
        rows.append(
            {
                "low": i / bins,
                "high": (i + 1) / bins,
                "images": images,
                "confidence": float(np.mean(confidence[inside])) if images else None,
                "accuracy": accuracy,
                "interval": list(bounds) if bounds else None,
            }
        )
    return rows


def calibrate(
    logits: Array, truth: Array, temperature: float | None = None, *, seed: int = 0
) -> dict[str, Any]:
    """The temperature, and what it changes on these images, in JSON's types.

    `logits`: float (n, labels); `truth`: int label indices (n,). The temperature is fitted on these
    images unless one is given, as for a test split that must not choose it. `before` and `after`
    have `loss` in nats, `ece`, `ece_interval` and `reliability`; `seed` is the bootstrap's.
    """
    chosen = fit_temperature(logits, truth) if temperature is None else float(temperature)
    exact = np.asarray(logits, np.float64)
    return {
        "images": len(truth),
        "temperature": chosen,
        "fitted_here": temperature is None,
        "bins": BINS,
        "before": _figures(exact, truth, seed),
        "after": _figures(exact / chosen, truth, seed),
    }


def _figures(logits: Array, truth: Array, seed: int) -> dict[str, Any]:
    confidence = softmax(logits).max(axis=1)
    correct = logits.argmax(axis=1) == truth
    return {
        "loss": cross_entropy(logits, truth) if len(truth) else None,
        "ece": expected_calibration_error(confidence, correct),
        "ece_interval": ece_interval(confidence, correct, seed=seed),
        "reliability": reliability(confidence, correct),
    }


def _bin(confidence: Array, bins: int) -> Array:
    edges = np.arange(1, bins) / bins
    # 'left' puts a score on an edge into the bin that the edge closes.
    return np.searchsorted(edges, np.asarray(confidence, np.float64), side="left")


def _ece(which: Array, gap: Array, bins: int) -> float:
    # A bin's share times its mean gap is the sum of its gaps over all images.
    return float(np.abs(np.bincount(which, gap, minlength=bins)).sum() / len(gap))
