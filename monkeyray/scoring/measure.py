"""Figures of a model on labelled images that it was not trained on, from the scores it gave them.

They are those of the scores as they are: temperature and thresholds were chosen before, on other
images, and what they promised there is held against what they reach here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.model.known_images import NEW
from monkeyray.scoring.rows import SCORED
from monkeyray.statistics.calibration import (
    BINS,
    ece_interval,
    expected_calibration_error,
    reliability,
)
from monkeyray.statistics.label_errors import label_errors
from monkeyray.statistics.metrics import evaluate, wilson
from monkeyray.statistics.thresholds import ACCEPTED, coverage_curve


@dataclass(frozen=True)
class LabelledPredictions:
    """What a model said of n labelled images that could be scored; all arrays are in their order.

    `labels`: those that the model knows. `uris` and `given`: str (n,), where the given label may be
    one that it does not know. `probabilities`: float32 (n, labels), of which each image has the
    `listed` largest, and 0 for the rest. `decisions`: str (n,) of thresholds.decide, None without
    thresholds. `outliers`: float32 (n,), as OutlierModel.score has them. `seen`: str (n,), as
    KnownImages.find has them, None where it is not known what the model was made with.
    """

    labels: list[str]
    uris: Array
    given: Array
    probabilities: Array
    listed: int
    decisions: Array | None
    outliers: Array
    seen: Array | None = None

    def only(self, rows: Array) -> LabelledPredictions:
        """Some of the images, by a bool mask or by index."""
        return LabelledPredictions(
            self.labels,
            self.uris[rows],
            self.given[rows],
            self.probabilities[rows],
            self.listed,
            None if self.decisions is None else self.decisions[rows],
            self.outliers[rows],
            None if self.seen is None else self.seen[rows],
        )

    def known(self) -> Array:
        """Which images have a given label that the model knows, bool (n,)."""
        return np.isin(self.given, np.array(self.labels, dtype=object))

    def truth(self) -> Array:
        """The given labels as indices, int (n,); all of them have to be known."""
        index = {label: i for i, label in enumerate(self.labels)}
        return np.array([index[label] for label in self.given], np.int64)


@dataclass(frozen=True)
class Found:
    """What there is to measure. `target`: the precision that the thresholds promised, where that is
    known; `root`: below it, URIs are told relative to it; `data`: counts; `compared`: with what
    share of the pictures that the model was made with these were compared."""

    answers: LabelledPredictions
    target: float | None
    model_id: str
    views: tuple[str, ...]
    root: str
    data: dict[str, Any]
    compared: float = 0.0


def measure(answers: LabelledPredictions, target: float | None) -> dict[str, Any]:
    """All figures of images with known labels, in JSON's types.

    Those of metrics.evaluate, `calibration`, `thresholds` (None without decisions; `target` is the
    precision that they promised, where that is known), `coverage` as of thresholds.coverage_curve,
    and `outliers`. Where a row does not list all labels there is no `loss`, and no top-k accuracy
    of more labels than are listed.
    """
    truth, probabilities = answers.truth(), answers.probabilities
    scores = probabilities.max(axis=1, initial=0)
    correct = probabilities.argmax(axis=1) == truth
    # A score that underflows to 0 is still of some use in the order, and has to have a logarithm.
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny), dtype=np.float64)
    figures = evaluate(logits, truth, answers.labels)
    if not _is_complete(answers):
        figures["loss"] = None
        figures["top_k_accuracy"] = {
            k: share for k, share in figures["top_k_accuracy"].items() if int(k) <= answers.listed
        }
    return figures | {
        "calibration": {
            "bins": BINS,
            "ece": expected_calibration_error(scores, correct),
            "ece_interval": ece_interval(scores, correct),
            "reliability": reliability(scores, correct),
        },
        "thresholds": _thresholds(answers.decisions, correct, target),
        "coverage": coverage_curve(scores, correct) if len(truth) else [],
        "outliers": {"above_1": _share(answers.outliers > 1)},
    }


def describe_unknown(answers: LabelledPredictions) -> dict[str, Any] | None:
    """What became of images whose label the model does not know, in JSON's types; None where there
    are none.

    `labels`: images of each; `above_1`: share with an outlier score above 1, which is what tells
    them from the model's own; `accepted`: how many were accepted all the same, each of them wrong.
    """
    if not len(answers.given):
        return None
    accepted = None
    if answers.decisions is not None:
        accepted = int((answers.decisions == ACCEPTED).sum())
    return {
        "images": len(answers.given),
        "labels": dict(Counter(answers.given.tolist()).most_common()),
        "above_1": _share(answers.outliers > 1),
        "accepted": accepted,
    }


def measure_new(answers: LabelledPredictions, target: float | None) -> dict[str, Any] | None:
    """The figures of `measure` without the images that the model was made with; None where there
    are none of those, or no others, or it is not known."""
    if answers.seen is None:
        return None
    new = answers.seen == NEW
    return measure(answers.only(new), target) if new.any() and not new.all() else None


def find_label_errors(answers: LabelledPredictions) -> list[dict[str, Any]]:
    """Images with known labels whose label is likely wrong, the least believed first, in JSON's
    types."""
    found = label_errors(answers.probabilities, answers.truth()) if len(answers.given) else []
    return [
        {
            "uri": str(answers.uris[each.index]),
            "given": answers.labels[each.given],
            "suggested": answers.labels[each.suggested],
            "quality": each.quality,
        }
        for each in found
    ]


def count_statuses(statuses: Counter[str]) -> dict[str, Any]:
    """Labelled images, how many of them were scored, and the others by status."""
    failures = {status: n for status, n in statuses.most_common() if status not in SCORED}
    return {
        "labelled": statuses.total(),
        "scored": statuses.total() - sum(failures.values()),
        "failures": failures,
    }


def _is_complete(answers: LabelledPredictions) -> bool:
    # Labels that are known from the rows alone may not be all that the model has.
    sums = answers.probabilities.sum(axis=1, dtype=np.float64)
    return answers.listed >= len(answers.labels) and bool(np.all(np.abs(sums - 1) < 1e-3))


def _thresholds(
    decisions: Array | None, correct: Array, target: float | None
) -> dict[str, Any] | None:
    if decisions is None:
        return None
    accepted = decisions == ACCEPTED
    count = int(accepted.sum())
    precision = _share(correct[accepted])
    interval = wilson(precision, count)
    return {
        "target": target,
        "images": len(correct),
        "accepted": count,
        "coverage": _share(accepted),
        "precision": precision,
        "precision_interval": list(interval) if interval else None,
    }


def _share(flags: Array) -> float | None:
    return float(np.mean(flags)) if len(flags) else None
