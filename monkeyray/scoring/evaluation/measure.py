"""Metrics of a model's predictions on labelled images that it was not trained on.

Temperature and thresholds were chosen earlier on other images; what they promised is compared with
what they reach here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.model.known_images import NEW
from monkeyray.statistics.calibration import (
    BINS,
    ece_interval,
    expected_calibration_error,
    reliability,
)
from monkeyray.statistics.cameras import camera_metrics
from monkeyray.statistics.label_errors import label_errors
from monkeyray.statistics.metrics import classification_metrics, wilson
from monkeyray.statistics.thresholds import ACCEPTED, coverage_curve


@dataclass(frozen=True)
class LabelledPredictions:
    """Predictions for n labelled images; all arrays are in the same order.

    `labels`: those the model knows. `uris` and `given`: str (n,); a given label may be unknown to
    the model. `probabilities`: float32 (n, labels), the `listed` largest of each image, otherwise
    0. `decisions`: str (n,) as in thresholds.decide, None without thresholds. `outliers`: float32
    (n,) as in OutlierModel.score. `seen`: str (n,) as in KnownImages.find, None if the training
    images are unknown. `sequences`: equal numbers for images of one sequence, int (n,).
    `locations`: str or None (n,), and `at_seen`: bool (n,) as in KnownImages.at; None if either is
    unknown.
    """

    labels: list[str]
    uris: Array
    given: Array
    probabilities: Array
    listed: int
    decisions: Array | None
    outliers: Array
    seen: Array | None = None
    sequences: Array | None = None
    locations: Array | None = None
    at_seen: Array | None = None

    def only(self, rows: Array) -> LabelledPredictions:
        """A selection of the images, by a bool mask or by index."""
        return LabelledPredictions(
            self.labels,
            self.uris[rows],
            self.given[rows],
            self.probabilities[rows],
            self.listed,
            None if self.decisions is None else self.decisions[rows],
            self.outliers[rows],
            *(
                None if each is None else each[rows]
                for each in (self.seen, self.sequences, self.locations, self.at_seen)
            ),
        )

    def known(self) -> Array:
        """Which images have a label that the model knows, bool (n,)."""
        return np.isin(self.given, np.array(self.labels, dtype=object))

    def truth(self) -> Array:
        """The given labels as indices, int64 (n,). Raises KeyError for an unknown label."""
        index = {label: i for i, label in enumerate(self.labels)}
        return np.array([index[label] for label in self.given], np.int64)


def measure(predictions: LabelledPredictions, target: float | None) -> dict[str, Any]:
    """All metrics of images with known labels, in JSON types.

    Those of classification_metrics; `calibration`; `thresholds` (None without decisions), whose
    `target` is the precision that they promised, if known; `coverage` as in coverage_curve; and
    `outliers`; `cameras`, see camera_metrics (None without locations). If rows do not list all
    labels, `loss` is None, and `top_k_accuracy` ends at the number listed.
    """
    truth, probabilities = predictions.truth(), predictions.probabilities
    scores = probabilities.max(axis=1, initial=0)
    correct = probabilities.argmax(axis=1) == truth
    # The logarithm of a score that underflowed to 0 must be finite.
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny), dtype=np.float64)
    metrics = classification_metrics(logits, truth, predictions.labels)
    if not _is_complete(predictions):
        metrics["loss"] = None
        metrics["top_k_accuracy"] = {
            k: share
            for k, share in metrics["top_k_accuracy"].items()
            if int(k) <= predictions.listed
        }
    return metrics | {
        "calibration": {
            "bins": BINS,
            "ece": expected_calibration_error(scores, correct),
            "ece_interval": ece_interval(scores, correct),
            "reliability": reliability(scores, correct),
        },
        "thresholds": _thresholds(predictions.decisions, correct, target),
        "coverage": coverage_curve(scores, correct) if len(truth) else [],
        "outliers": {"above_1": _share(predictions.outliers > 1)},
        "cameras": camera_metrics(correct, predictions.locations, predictions.at_seen)
        if predictions.locations is not None and predictions.at_seen is not None else None,
    }  # fmt: skip


def measure_unknown(predictions: LabelledPredictions) -> dict[str, Any] | None:
    """Images whose label the model does not know, in JSON types; None without such images.

    `labels`: images of each; `above_1`: share with an outlier score above 1, which should detect
    them; `accepted`: how many were accepted nevertheless, each of them wrong.
    """
    if not len(predictions.given):
        return None
    decisions = predictions.decisions
    return {
        "images": len(predictions.given),
        "labels": dict(Counter(predictions.given.tolist()).most_common()),
        "above_1": _share(predictions.outliers > 1),
        "accepted": None if decisions is None else int((decisions == ACCEPTED).sum()),
    }


def measure_new(predictions: LabelledPredictions, target: float | None) -> dict[str, Any] | None:
    """The metrics of `measure` without the model's own training images.

    None if these are unknown, if there are none, or if there are no other images.
    """
    if predictions.seen is None:
        return None
    new = predictions.seen == NEW
    return measure(predictions.only(new), target) if new.any() and not new.all() else None


def likely_label_errors(predictions: LabelledPredictions) -> list[dict[str, Any]]:
    """Images with known labels whose label is likely wrong, least plausible first, one for each
    sequence, in JSON types."""
    if not len(predictions.given):
        return []
    return [
        {
            "uri": str(predictions.uris[each.index]),
            "images": each.images,
            "given": predictions.labels[each.given],
            "suggested": predictions.labels[each.suggested],
            "quality": each.quality,
        }
        for each in label_errors(
            predictions.probabilities, predictions.truth(), predictions.sequences
        )
    ]


def _is_complete(predictions: LabelledPredictions) -> bool:
    # Labels collected from the rows may not be all that the model has.
    sums = predictions.probabilities.sum(axis=1, dtype=np.float64)
    complete = bool(np.all(np.abs(sums - 1) < 1e-3))
    return predictions.listed >= len(predictions.labels) and complete


def _thresholds(
    decisions: Array | None, correct: Array, target: float | None
) -> dict[str, Any] | None:
    if decisions is None:
        return None
    accepted = decisions == ACCEPTED
    count = int(accepted.sum())
    precision = _share(correct[accepted])
    return {
        "target": target,
        "images": len(correct),
        "accepted": count,
        "coverage": _share(accepted),
        "precision": precision,
        "precision_interval": wilson(precision, count),
    }


def _share(flags: Array) -> float | None:
    return float(np.mean(flags)) if len(flags) else None
