"""Models and findings for reports: plain, full, empty and hostile."""

from __future__ import annotations

import base64
import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from monkeyray.pages.report import render_report
from monkeyray.statistics.calibration import calibrate
from monkeyray.statistics.cameras import camera_metrics
from monkeyray.statistics.metrics import classification_metrics, softmax
from monkeyray.statistics.thresholds import choose_thresholds, coverage_curve
from monkeyray.training.assess import measure_thresholds

CONFUSION = [[60, 1, 0], [2, 50, 1], [0, 0, 47]]  # 157 of 161


def plain_model() -> dict[str, Any]:
    """A bundle's figures as the first format had them, without all that may be absent."""
    labels = ["n0", "n1", "n2"]
    names = ["mantled_howler", "patas_monkey", None]
    return {
        "format_version": 1,
        "model_id": "3f0c" * 16,
        "created_at": "2026-11-23T23:00:00+00:00",
        "backbone": "mobilenet",
        "weights_source": "imagenet",
        "input_size": 224,
        "feature_width": 1024,
        "preprocessing": {"resize": "squeeze", "version": 1},
        "head": [1024, 512],
        "labels": [
            {"index": i, "label": label, "name": name}
            for i, (label, name) in enumerate(zip(labels, names, strict=True))
        ],
        "training": {"seed": 0, "learning_rate": 0.001, "augment": False},
        "data": {
            "images": 1080,
            "used": 1078,
            "unusable": {"unreadable": 2},
            "splits": {"train": 917, "test": 161},
            "folds": 5,
            "by_label": {label: {"train": 2511, "test": 54} for label in labels},
            "duplicate_groups": 88,
            "duplicate_images": 112,
            "leaks": 0,
            "fingerprint": "feed" * 16,
        },
        "metrics": {
            "best_epoch": 3,
            "epochs_run": 4,
            "history": [
                {
                    "epoch": epoch,
                    "train_loss": 2.0 / epoch,
                    "train_accuracy": 1 - 0.5 / epoch,
                    "validation_loss": [1.8, 1.2, 0.7, 0.9][epoch - 1],
                    "validation_accuracy": [0.5, 0.7, 0.98, 0.97][epoch - 1],
                }
                for epoch in (1, 2, 3, 4)
            ],
            "figures": "The test figures are of the published head.",
            "estimate": {"source": "out-of-fold", "images": 917, "accuracy": 0.98, "folds": [0.98]},
            "test": {
                "images": 161,
                "accuracy": 157 / 161,
                "loss": 0.0812,
                "macro_recall": 0.974,
                "macro_f1": 0.973,
                "confusion": CONFUSION,
                "per_label": [
                    {"label": "n0", "images": 61, "precision": 0.968, "recall": 0.984, "f1": 0.976},
                    {"label": "n1", "images": 53, "precision": 0.98, "recall": 0.943, "f1": 0.962},
                    {"label": "n2", "images": 47, "precision": 0.979, "recall": 1.0, "f1": 0.989},
                ],
                "without_leaks": None,
            },
        },
        "packages": {"monkeyray": "0.1.0", "keras": "3.15.1"},
    }


LABELS = ["n0", "n1", "n2"]
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}</style>&amp;"


@functools.cache
def _figures() -> dict[str, Any]:
    """Figures of logits drawn at random, by the functions that make them in a training."""
    rng = np.random.default_rng(3)

    def draw(images: int, sharpness: float) -> tuple[Any, Any]:
        truth = rng.integers(0, 3, images)
        logits = rng.normal(0, 1, (images, 3))
        logits[np.arange(images), truth] += 2.2
        return logits * sharpness, truth

    held, held_truth = draw(600, 3.0)
    logits, truth = draw(161, 3.0)
    found = calibrate(held, held_truth)
    scaled, held_scores = logits / found["temperature"], softmax(held / found["temperature"])
    scores, predicted = softmax(scaled).max(axis=1), scaled.argmax(axis=1)
    chosen = choose_thresholds(
        held_scores.max(axis=1), held_scores.argmax(axis=1), held_truth, LABELS, 0.9
    )
    return {
        "test": classification_metrics(scaled, truth, LABELS)
        | {"without_leaks": None, "cameras": _cameras(161, 4)},
        "calibration": {"source": "out-of-fold", **found},
        "test_calibration": calibrate(logits, truth, found["temperature"]),
        "thresholds": measure_thresholds(chosen.to_json(), scores, predicted, truth),
        "coverage": coverage_curve(scores, predicted == truth),
        "learning_curve": {
            "points": [
                {"images": images, "accuracy": accuracy, "accuracy_interval": [0.8, 0.95]}
                for images, accuracy in ((120, 0.85), (240, 0.88), (480, 0.91))
            ],
            "expected": [{"images": 600, "accuracy": 0.92}, {"images": 1200, "accuracy": 0.934}],
        },
        "views": [{"views": k, "estimate": 0.95, "test": 0.94 + k / 100} for k in (1, 2)],
        "estimate": {
            "source": "out-of-fold",
            **classification_metrics(held / found["temperature"], held_truth, LABELS),
            "folds": [0.91, 0.88, 0.93, 0.9, 0.92],
            "cameras": _cameras(600, 12) | {"same_images": 0.871},
        },
        "fine_tuning": {
            "layers": "2-blocks",
            "kept": True,
            "best_epoch": 2,
            "epochs_run": 3,
            "resumed_from": None,
            "history": [
                {
                    "epoch": epoch,
                    "train_loss": 0.2 / epoch if epoch else None,
                    "train_accuracy": 0.99 if epoch else None,
                    "validation_loss": [0.2, 0.18, 0.15, 0.16][epoch],
                    "validation_accuracy": [0.95, 0.96, 0.98, 0.97][epoch],
                }
                for epoch in range(4)
            ],
        },
        "outliers": {"test_above_1": 0.062},
        "int8": {
            "images": 161,
            "accuracy": {"float32": 0.975, "int8": 0.969},
            "agreement": 160 / 161,
            "agreement_interval": [0.966, 0.999],
            "score_change": 0.00071,
            "speed": {"float32": 137.4, "int8": 1454.6},
            "cpu": "AMD EPYC",
            "bytes": 3487223,
            "seconds": 9.1,
            "calibrated_on": 300,
        },
        "search": _search(),
    }


def _cameras(images: int, sites: int) -> dict[str, Any]:
    """Of images of which every other is at a site that was seen."""
    rng = np.random.default_rng(images)
    names = np.array([f"Site {number}" for number in rng.integers(0, sites, images)], dtype=object)
    return camera_metrics(rng.random(images) < 0.9, names, np.arange(images) % 2 > 0)


def _search() -> dict[str, Any]:
    """Of 14 trials, of which the last but two is the best, as `tune` tells them."""
    trials = [
        {
            "trial": number,
            "head": ("linear", "512", "1024,512")[number % 3],
            "learning_rate": 0.00123,
            "l2": 4.5e-06,
            "head_seed": 7,
            "ended": ("finished", "diverged")[number % 2],
            "epochs": 5 + number,
            "best_epoch": 4,
            "validation_loss": 0.5 - number / 50,
            "validation_accuracy": 0.9,
            "seconds": 1.5,
            "error": None,
        }
        for number in range(12)
    ]
    nothing = dict.fromkeys(("best_epoch", "validation_loss", "validation_accuracy"))
    trials += [
        trials[0] | nothing | {"trial": 12, "ended": "diverged", "epochs": 0, "error": "too fast"},
        trials[1] | nothing | {"trial": 13, "ended": "failed", "epochs": 0, "error": "OSError"},
    ]
    return {
        "best": 11, "seconds": 20.5, "heads": ["linear", "512", "1024,512"],
        "learning_rate_range": [1e-4, 1e-2], "l2_range": [1e-7, 1e-3], "trials": trials,
    }  # fmt: skip


def full_model() -> dict[str, Any]:
    """A model with every figure that there can be."""
    model = plain_model()
    model["metrics"] |= copy.deepcopy(_figures())
    model["data"] |= {
        "rare_labels": [
            {"label": "n1", "train": 12, "groups": 9, "test": 3},
            {"label": "n2", "train": 700, "groups": 650, "test": 0},
        ],
        "class_weights": "balanced",
        "locations": {
            "level": "location", "count": 12, "unknown": 7,
            "untested": [{"label": "n2", "locations": 2}],
        },
        "not_by_location": None,
    }  # fmt: skip
    return model


def picture(width: int = 160, height: int = 110) -> str:
    """A small JPEG as a data URI."""
    sink = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(sink, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def full_findings() -> dict[str, Any]:
    """Findings of every kind, more duplicates and label errors than are shown."""

    def shown(count: int, labels: tuple[str, str]) -> list[dict[str, Any]]:
        return [
            {
                "uri": f"n0/IMG_{i:04}.JPG",
                "truth": "n0",
                "label": labels[i % 2],
                "score": 0.99 - i / 100,
                "thumbnail": picture() if i % 5 else picture(60, 160),
            }
            for i in range(count)
        ]

    return {
        "mistakes": shown(5, ("n1", "n2")),
        "uncertain": shown(24, ("n0", "n2")),
        "label_errors": [
            {
                "uri": f"n1/site-{i}/IMG_{i:04}.JPG",
                "split": "train",
                "given": "n1",
                "suggested": "n2",
                "quality": i / 1000,
                "thumbnail": picture() if i % 2 else None,
            }
            for i in range(103)
        ],
        "locations": _cameras(700, 57)["by_location"],
        "contradictions": [
            {
                "how": "identical" if i < 20 else "near",
                "images": [
                    {
                        "uri": f"n{j % 2}/clash-{i}-{j}.jpg",
                        "label": f"n{j % 2}",
                        "how": "identical" if i < 20 and j < 3 else "near",
                    }
                    for j in range(12)
                ],
            }
            for i in range(60)
        ],
        "leaks": [
            {
                "uri": "test/n0/a.jpg",
                "how": "near",
                "images": 7,
                "repeats": [{"uri": f"n0/{i}.jpg", "how": "near"} for i in range(5)],
            }
        ],
        "duplicates": [
            {"uris": [f"n0/{i}.jpg", f"n0/copy-{i}.jpg"], "how": "identical"} for i in range(1234)
        ],
    }


def hostile_model(text: str = HOSTILE) -> dict[str, Any]:
    """A model whose labels, names and settings are `text`."""
    model = full_model()
    model["labels"][0] |= {"label": text, "name": text}
    metrics = model["metrics"]
    for rows in (metrics["test"]["per_label"], metrics["thresholds"]["per_label"]):
        rows[0]["label"] = text
    model["data"]["by_label"][text] = model["data"]["by_label"].pop("n0")
    model["data"] |= {
        "unusable": {text: 1},
        "skipped_files": {text: 1},
        "rare_labels": [{"label": text, "train": 1, "groups": 1, "test": 0}],
        "class_weights": {text: 1.5},
        "locations": {
            "level": "location",
            "count": 1,
            "unknown": 1,
            "untested": [{"label": text, "locations": 1}],
        },
        "not_by_location": text,
    }
    metrics["fine_tuning"]["layers"] = text
    metrics["search"]["trials"][11] |= {"head": text, "ended": text}
    model["training"] = {text: text}
    model["packages"] = {text: [text]}
    model["preprocessing"] = {text: text}
    for key in ("model_id", "created_at", "backbone", "weights_source"):
        model[key] = text
    return model


_NOTHING = {"images": 0, "accuracy": None}


def hostile_findings(text: str = HOSTILE) -> dict[str, Any]:
    """Findings with `text` in the place of everything, thumbnails from elsewhere included."""
    pair = {"truth": text, "label": text, "score": 0.5}
    elsewhere = ["https://example.org/a.jpg", "javascript:alert(1)", "data:image/svg+xml,<svg/>"]
    return {
        "locations": [{"location": text} | dict.fromkeys(("seen", "unseen"), _NOTHING)],
        "mistakes": [{"uri": text, "thumbnail": None, **pair}],
        "uncertain": [{"uri": text, "thumbnail": each, **pair} for each in elsewhere],
        "label_errors": [
            {
                "uri": text,
                "split": text,
                "given": text,
                "suggested": text,
                "quality": 0.0,
                "thumbnail": each,
            }
            for each in (text, picture())
        ],
        "contradictions": [{"how": text, "images": [{"uri": text, "label": text, "how": ""}] * 2}],
        "leaks": [
            {
                "uri": text,
                "how": text,
                "images": 1,
                "repeats": [{"uri": text, "how": text}],
            }
        ],
        "duplicates": [{"uris": [text] * 12, "how": text}],
    }


def empty_model() -> dict[str, Any]:
    """A model without a validation or test image, or an epoch."""
    model = full_model()
    none = np.empty((0, 3)), np.empty(0, np.int64)
    thresholds = choose_thresholds(np.empty(0), none[1], none[1], LABELS, 0.95).to_json()
    model["metrics"] = {
        "best_epoch": None,
        "epochs_run": 0,
        "history": [],
        "figures": "There are no figures.",
        "estimate": {
            "source": "validation",
            **classification_metrics(*none, LABELS),
            "folds": [None],
        },
        "test": None,
        "calibration": {"source": "validation", **calibrate(*none)},
        "test_calibration": None,
        "thresholds": measure_thresholds(thresholds, np.empty(0), none[1], none[1]),
        "coverage": [],
        "learning_curve": None,
        "views": [{"views": 1, "estimate": None, "test": None}],
        "fine_tuning": None,
        "outliers": {"test_above_1": None},
        "search": None,
    }
    model["data"] |= {"rare_labels": [], "class_weights": None, "locations": None}
    return model


def empty_findings() -> dict[str, Any]:
    """Nothing was found."""
    kinds = ("contradictions", "mistakes", "uncertain", "label_errors", "leaks", "duplicates")
    return {kind: [] for kind in kinds}


def many_labels(count: int) -> dict[str, Any]:
    """A full model with the given number of labels."""
    model = full_model()
    test = model["metrics"]["test"]
    name = "a species with a rather long name"
    model["labels"] = [{"index": i, "label": f"label_{i}", "name": name} for i in range(count)]
    test["confusion"] = [[1000 if i == j else i % 3 for j in range(count)] for i in range(count)]
    row = test["per_label"][0]
    test["per_label"] = [row | {"label": f"label_{i}"} for i in range(count)]
    model["data"]["rare_labels"] = [
        {"label": f"label_{i}", "train": i, "groups": i, "test": 9} for i in range(count)
    ]
    return model


#: A path that cannot be broken and changes the writing direction.
LONG = "\N{RIGHT-TO-LEFT OVERRIDE}" + "s3://bucket/" + "a" * 400 + "_\N{ARABIC LETTER MEEM}" * 40

#: Reports by name: a model, and findings if there are any.
CASES: dict[str, Callable[[], tuple[dict[str, Any], dict[str, Any] | None]]] = {
    "plain": lambda: (plain_model(), None),
    "full": lambda: (full_model(), full_findings()),
    "hostile": lambda: (hostile_model(), hostile_findings()),
    "long": lambda: (hostile_model(LONG), hostile_findings(LONG)),
    "empty": lambda: (empty_model(), empty_findings()),
    "many": lambda: (many_labels(60), full_findings()),
}


@functools.cache
def report(case: str) -> str:
    """One of the reports, as HTML."""
    return render_report(*CASES[case]())
