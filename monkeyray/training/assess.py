"""Measures a trained model: out of fold, and on the test split if one is given.

A fold head is a head that was trained without one of the folds. All choices (temperature,
thresholds, outlier scale) are made on predictions by heads that have not seen the image, nor, if
folds are of locations, others of its location.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.images.views import COUNTS
from monkeyray.model.backbones import Weights
from monkeyray.model.head import head_logits
from monkeyray.scoring.features import mean_views
from monkeyray.statistics.calibration import calibrate, fit_temperature
from monkeyray.statistics.cameras import camera_metrics
from monkeyray.statistics.label_errors import LabelError, label_errors
from monkeyray.statistics.learning_curve import expected_accuracy
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
from monkeyray.training.fitting.distributed import below

#: Where the estimate comes from: the fold heads, or the fine-tuned network on the first fold.
OUT_OF_FOLD, VALIDATION = "out-of-fold", "validation"

#: Features copied at a time.
_ROWS = 2**15


@dataclass(frozen=True)
class Assessment:
    """`calibration`: by number of views, as in a bundle. `metrics`: as in model.json.
    `probabilities`: calibrated, of all images (n, labels), each by a head that was not trained on
    it, if possible; `unseen`: whether that was possible, bool (n,). `by_location`: that of
    camera_metrics, whose rows name locations; None if folds are not of locations."""

    calibration: dict[str, Any]
    metrics: dict[str, Any]
    outliers: OutlierModel
    probabilities: Array
    unseen: Array
    by_location: list[dict[str, Any]] | None = None


def assess(
    data: Dataset,
    vectors: Array,
    head: Weights,
    fold_heads: Mapping[int, Weights],
    source: str,
    target_precision: float | None,
) -> Assessment:
    """Measure the published head on the images' features (n, views, width).

    `fold_heads`: by fold, the head that has not seen it. `source`: OUT_OF_FOLD or VALIDATION.
    """
    truth, fold, labels, most = data.folds.truth, data.folds.fold, data.labels, vectors.shape[1]
    features = {count: mean_views(vectors, count) for count in COUNTS if count <= most}
    logits = {
        count: _unseen_logits(head, fold_heads, each, fold) for count, each in features.items()
    }
    held, test = np.flatnonzero(np.isin(fold, list(fold_heads))), np.flatnonzero(data.test)
    calibration = {
        str(count): _calibrate(each[held], truth[held], labels, target_precision)
        for count, each in logits.items()
    }
    chosen = calibration[str(most)]
    temperature = chosen["temperature"]
    scaled = logits[most] / temperature
    probabilities = softmax(scaled)
    learned = np.flatnonzero(~data.test)
    outliers = fit_outliers(
        features,
        truth,
        np.where(np.isin(fold, list(fold_heads)), fold, -1),
        data.folds.second,
        learned,
    )
    # The images that the report shows.
    shown = test if len(test) else held
    # In float32 like scoring, so that a score at a threshold is decided in the same way.
    scores = probabilities[shown].max(axis=1).astype(np.float32)
    predicted = scaled[shown].argmax(axis=1)
    hits = scaled.argmax(axis=1) == truth
    cameras = _cameras(data, features[most], hits, fold_heads)
    by_location = [each.pop("by_location") for each in cameras.values() if each is not None]
    metrics = {
        "figures": _sentence(data, source, len(held)),
        "estimate": {
            "source": source,
            **classification_metrics(scaled[held], truth[held], labels),
            "folds": [
                _accuracy(scaled, truth, np.flatnonzero(fold == number)) for number in fold_heads
            ],
            "cameras": cameras["estimate"],
        },
        "test": _test(data, scaled) | {"cameras": cameras["test"]} if len(test) else None,
        "calibration": {"source": source, **calibrate(logits[most][held], truth[held])},
        "test_calibration": calibrate(logits[most][test], truth[test], temperature)
        if len(test) else None,
        "thresholds": measure_thresholds(chosen["thresholds"], scores, predicted, truth[shown]),
        "coverage": coverage_curve(scores, predicted == truth[shown]),
        "views": [
            {
                "views": count,
                "estimate": _accuracy(each, truth, held),
                "test": _accuracy(each, truth, test),
            }
            for count, each in logits.items()
        ],
        "outliers": {
            "test_above_1": float(np.mean(outliers.score(features[most][test], most) > 1))
            if len(test) else None
        },
    }  # fmt: skip
    unseen = data.test | np.isin(fold, list(fold_heads))
    # The report shows the test split if there is one.
    rows = by_location[-1] if by_location else None
    return Assessment(calibration, metrics, outliers, probabilities, unseen, rows)


def _cameras(
    data: Dataset, features: Array, hits: Array, fold_heads: Mapping[int, Weights]
) -> dict[str, dict[str, Any] | None]:
    """The camera_metrics of the `estimate` and of the `test`, None without them.

    `hits`: which images are predicted correctly by heads that have not seen their location, bool
    (n,). In the estimate, images that are held back from a second head count on both sides;
    `same_images` is the accuracy of the first heads on these alone. A test split of unknown
    locations has none either.
    """
    folds, locations, test = data.folds, data.locations, np.flatnonzero(data.test)
    if locations is None or folds.second is None:
        return {"estimate": None, "test": None}
    held, back = (each(len(fold_heads)) for each in (folds.held_out, folds.held_back))
    logits = np.empty((len(hits), len(data.labels)))
    for number, head in fold_heads.items():
        its = back[folds.second[back] == number]
        logits[its] = head_logits(head, features[its])
    right = logits[back].argmax(axis=1) == folds.truth[back]
    both = np.intersect1d(back, held)
    known = set(locations[~data.test].tolist())
    return {
        "estimate": camera_metrics(
            np.concatenate([hits[held], right]),
            locations[np.concatenate([held, back])],
            np.repeat([False, True], [len(held), len(back)]),
        )
        | {"same_images": float(hits[both].mean()) if len(both) else None},
        "test": camera_metrics(
            hits[test],
            locations[test],
            np.array([each in known for each in locations[test].tolist()], bool),
        )
        if any(each is not None for each in locations[test]) else None,
    }  # fmt: skip


def _unseen_logits(
    head: Weights, fold_heads: Mapping[int, Weights], features: Array, fold: Array
) -> Array:
    """The logits of all images, each by the head that has not seen it, if there is one."""
    logits = np.empty((len(features), len(head[max(head)])))
    seen = ~np.isin(fold, list(fold_heads))
    parts = [(head, seen), *((each, fold == number) for number, each in fold_heads.items())]
    for weights, chosen in parts:
        its = np.flatnonzero(chosen)
        for start in range(0, len(its), _ROWS):
            rows = its[start : start + _ROWS]
            logits[rows] = head_logits(weights, features[rows])
    return logits


def _sentence(data: Dataset, source: str, held: int) -> str:
    """A sentence that says which head each figure describes."""
    test, learned = int(data.test.sum()), int((~data.test).sum())
    if source == OUT_OF_FOLD:
        text = (
            f"The out-of-fold figures are those of {data.folds.count} heads, each measured on the "
            f"{'fold' if data.locations is None else 'cameras'} that it was trained without, "
            f"{held:,} images in all; the published head was trained on all {learned:,} images"
        )
    else:
        text = (
            f"The validation figures are those of the published network on {held:,} images that it "
            f"was not trained on, but that were used to choose its epoch; it was trained on the "
            f"other {learned - held:,} images"
        )
    if test:
        text += f", and the test figures are its own, on {test:,} images not used in its training"
    return f"{text}."


def _test(data: Dataset, scaled: Array) -> dict[str, Any]:
    truth, clean = data.folds.truth, data.test & ~data.leaked
    return classification_metrics(scaled[data.test], truth[data.test], data.labels) | {
        "without_leaks": accuracy_and_loss(scaled[clean], truth[clean])
        if data.leaked.any() and clean.any() else None
    }  # fmt: skip


def _accuracy(logits: Array, truth: Array, images: Array) -> float | None:
    accuracy: float | None = accuracy_and_loss(logits[images], truth[images])["accuracy"]
    return accuracy


def assess_validation(data: Dataset, vectors: Array, head: Weights) -> dict[str, Any]:
    """Accuracy and log loss on the first fold after calibration, and the `temperature` used.
    Calibrating first means that a head cannot look better by being more confident alone."""
    images = data.folds.held_out(1)
    truth = data.folds.truth[images]
    logits = head_logits(head, vectors[images].mean(axis=1))
    temperature = fit_temperature(logits, truth)
    return accuracy_and_loss(logits / temperature, truth) | {"temperature": temperature}


def learning_curve(
    data: Dataset, weights: Weights, fold_heads: Mapping[int, Weights]
) -> dict[str, Any] | None:
    """The out-of-fold accuracy by the number of training images, and the accuracy expected with
    twice as many. None without heads trained on subsets, see LinearTraining."""
    fold, truth, learned = data.folds.fold, data.folds.truth, int((~data.test).sum())
    held = np.flatnonzero(fold >= 0)
    shares = sorted({name.split("/")[0] for name in weights if name.startswith("subset-")})
    if not shares:
        return None
    features = mean_views(data.vectors)
    heads = {
        float(weights[f"{share}/images"][0]): {
            number: below(weights, f"{share}/{number}") for number in fold_heads
        }
        for share in shares
    }
    seen = data.folds.seen(np.flatnonzero(~data.test), len(fold_heads))
    heads[float(seen.sum(axis=0).mean())] = dict(fold_heads)
    points = []
    for images, each in heads.items():
        logits = _unseen_logits(each[0], each, features, fold)
        accuracy = _accuracy(logits, truth, held)
        points.append(
            {
                "images": round(images),
                "accuracy": accuracy,
                "accuracy_interval": wilson(accuracy, len(held)),
            }
        )
    wanted = np.array([learned, 2 * learned])
    sizes, accuracies = (np.array([each[key] for each in points]) for key in ("images", "accuracy"))
    expected = expected_accuracy(sizes, accuracies, len(held), wanted)
    return {
        "points": points,
        "expected": [
            {"images": int(images), "accuracy": float(accuracy)}
            for images, accuracy in zip(wanted, expected, strict=True)
        ],
    }


def suspicious_labels(data: Dataset, assessment: Assessment) -> list[LabelError]:
    """Likely label errors among the unseen images, most likely first, one for the images of a
    sequence with one label, with the `index` of the image in the dataset.
    """
    rows = np.flatnonzero(assessment.unseen)
    sequences = 2 * data.sequences[rows] + data.test[rows]
    found = label_errors(assessment.probabilities[rows], data.folds.truth[rows], sequences)
    return [replace(each, index=int(rows[each.index])) for each in found]


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
    """The thresholds, with their `results` on the images that the report shows."""
    if chosen is None:
        return None
    accepted = decide(scores, predicted, Thresholds.from_json(chosen)) == ACCEPTED
    right = int((accepted & (predicted == truth)).sum())
    count = int(accepted.sum())
    precision = right / count if count else None
    interval = wilson(precision, count)
    return chosen | {
        "results": {
            "images": len(truth),
            "accepted": count,
            "coverage": count / len(truth) if len(truth) else None,
            "precision": precision,
            "precision_interval": interval,
        }
    }
