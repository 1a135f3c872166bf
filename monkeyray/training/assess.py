"""The assessment of a trained head: calibration, thresholds and figures.

Choices are made on images that the head was not trained on: out of fold with folds, otherwise the
validation split. The test split is used once, for the figures only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.images.views import COUNTS
from monkeyray.model.backbones import Weights
from monkeyray.model.head import head_logits
from monkeyray.statistics.calibration import calibrate, fit_temperature
from monkeyray.statistics.label_errors import LabelError, label_errors
from monkeyray.statistics.metrics import accuracy_and_loss, classification_metrics, softmax, wilson
from monkeyray.statistics.outliers import OutlierModel, fit_outliers
from monkeyray.statistics.thresholds import (
    ACCEPTED,
    Thresholds,
    choose_thresholds,
    coverage_curve,
    decide,
)
from monkeyray.training.dataset import Dataset


@dataclass(frozen=True)
class HeldOut:
    """Images, by index, that a model was not trained on, their logits (n, labels) by the number of
    views, and their source, `validation` or `out-of-fold`."""

    images: Array
    logits: Mapping[int, Array]
    source: str


@dataclass(frozen=True)
class Assessment:
    """`calibration`: by number of views, as in a bundle. `metrics`: as in model.json.
    `probabilities`: calibrated, of all images (n, labels), each by a model that was not trained on
    it if there is one; `unseen`: for which images there is, bool (n,)."""

    calibration: dict[str, Any]
    metrics: dict[str, Any]
    outliers: OutlierModel
    probabilities: Array
    unseen: Array


def assess(
    data: Dataset,
    vectors: Array,
    head: Weights,
    fold_heads: Sequence[Weights],
    target_precision: float | None,
) -> Assessment:
    """All figures of a head on the features (n, views, width) of the images.

    `fold_heads`: the heads of the data's folds, trained in the same way on the same features. If
    empty, choices are made on the validation split.
    """
    splits, truth, labels, most = data.splits, data.splits.truth, data.labels, vectors.shape[1]
    features = {count: vectors[:, :count].mean(axis=1) for count in COUNTS if count <= most}
    logits = {count: head_logits(head, each) for count, each in features.items()}
    held = _held_out(data, features, logits, fold_heads)
    calibration = {
        str(count): _calibrate(each, truth[held.images], labels, target_precision)
        for count, each in held.logits.items()
    }
    chosen = calibration[str(most)]
    scaled = logits[most] / chosen["temperature"]
    probabilities = softmax(scaled)
    outliers = fit_outliers(
        features[most][splits.train],
        truth[splits.train],
        {count: each[splits.validation] for count, each in features.items()},
    )
    unseen = np.ones(len(truth), bool)
    unseen[splits.train] = False
    if data.folds:
        probabilities[held.images] = softmax(held.logits[most] / chosen["temperature"])
        unseen[held.images] = True
    its, its_truth = splits.test, truth[splits.test]
    test = classification_metrics(scaled[its], its_truth, labels)
    clean = its[~data.leaked[its]]
    test["without_leaks"] = None
    if 0 < len(clean) < len(its):
        test["without_leaks"] = accuracy_and_loss(scaled[clean], truth[clean])
    # In float32 like scoring, so that a score at a threshold is decided in the same way.
    scores = probabilities[its].max(axis=1).astype(np.float32)
    predicted = scaled[its].argmax(axis=1)
    metrics = {
        "validation": accuracy_and_loss(scaled[splits.validation], truth[splits.validation]),
        "test": test,
        "calibration": {
            "source": held.source, **calibrate(held.logits[most], truth[held.images])
        },
        "test_calibration": calibrate(logits[most][its], its_truth, chosen["temperature"]),
        "thresholds": measure_thresholds(chosen["thresholds"], scores, predicted, its_truth),
        "coverage": coverage_curve(scores, predicted == its_truth),
        "views": [
            {
                "views": count,
                "validation": _accuracy(each, truth, splits.validation),
                "test": _accuracy(each, truth, its),
            }
            for count, each in logits.items()
        ],
        "folds": _folds(data, held, most, labels) if data.folds else None,
        "outliers": {
            "test_above_1": float(np.mean(outliers.score(features[most][its], most) > 1))
            if len(its) else None
        },
    }  # fmt: skip
    return Assessment(calibration, metrics, outliers, probabilities, unseen)


def _accuracy(logits: Array, truth: Array, images: Array) -> float | None:
    accuracy: float | None = accuracy_and_loss(logits[images], truth[images])["accuracy"]
    return accuracy


def assess_validation(data: Dataset, vectors: Array, head: Weights) -> dict[str, Any]:
    """Accuracy and log loss on the validation split after calibration, and its `temperature`: more
    confidence alone does not make a head better."""
    images = data.splits.validation
    truth = data.splits.truth[images]
    logits = head_logits(head, vectors[images].mean(axis=1))
    temperature = fit_temperature(logits, truth)
    return accuracy_and_loss(logits / temperature, truth) | {"temperature": temperature}


def suspicious_labels(assessment: Assessment, truth: Array) -> list[LabelError]:
    """Likely label errors among the unseen images, likeliest first, with the `index` of the image
    in the dataset.
    """
    rows = np.flatnonzero(assessment.unseen)
    found = label_errors(assessment.probabilities[rows], truth[rows])
    return [replace(each, index=int(rows[each.index])) for each in found]


def _held_out(
    data: Dataset,
    features: Mapping[int, Array],
    logits: Mapping[int, Array],
    fold_heads: Sequence[Weights],
) -> HeldOut:
    if not fold_heads:
        images = data.splits.validation
        return HeldOut(
            images, {count: each[images] for count, each in logits.items()}, "validation"
        )
    images = np.concatenate([fold.test for fold in data.folds])
    return HeldOut(
        images,
        {
            count: np.concatenate(
                [
                    head_logits(head, each[fold.test])
                    for fold, head in zip(data.folds, fold_heads, strict=True)
                ]
            )
            for count, each in features.items()
        },
        "out-of-fold",
    )


def _calibrate(
    logits: Array, truth: Array, labels: list[str], target_precision: float | None
) -> dict[str, Any]:
    temperature = fit_temperature(logits, truth)
    thresholds = None
    if target_precision is not None:
        scores = softmax(logits / temperature).max(axis=1).astype(np.float32)
        predicted = logits.argmax(axis=1)
        chosen = choose_thresholds(scores, predicted, truth, labels, target_precision)
        thresholds = chosen.to_json()
    return {"temperature": temperature, "thresholds": thresholds}


def measure_thresholds(
    chosen: dict[str, Any] | None, scores: Array, predicted: Array, truth: Array
) -> dict[str, Any] | None:
    """The thresholds, with their results on the test split."""
    if chosen is None:
        return None
    accepted = decide(scores, predicted, Thresholds.from_json(chosen)) == ACCEPTED
    right = int((accepted & (predicted == truth)).sum())
    count = int(accepted.sum())
    precision = right / count if count else None
    interval = wilson(precision, count)
    return chosen | {
        "test": {
            "images": len(truth),
            "accepted": count,
            "coverage": count / len(truth) if len(truth) else None,
            "precision": precision,
            "precision_interval": interval,
        }
    }


def _folds(data: Dataset, held: HeldOut, most: int, labels: list[str]) -> dict[str, Any]:
    """The accuracy of each fold, and their mean with Student's 95% interval."""
    from scipy.stats import t

    truth = data.splits.truth[held.images]
    hits = held.logits[most].argmax(axis=1) == truth
    ends = np.cumsum([len(fold.test) for fold in data.folds])
    accuracies = [float(split.mean()) for split in np.split(hits, ends[:-1])]
    mean, count = float(np.mean(accuracies)), len(accuracies)
    half = float(t.ppf(0.975, count - 1) * np.std(accuracies, ddof=1) / math.sqrt(count))
    return {
        "folds": count,
        "accuracies": accuracies,
        "mean": mean,
        "interval": [max(0.0, mean - half), min(1.0, mean + half)],
        "images": len(hits),
        "pooled": classification_metrics(held.logits[most], truth, labels),
    }
