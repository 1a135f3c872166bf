"""What is said of a trained head: choices from unseen images alone, figures from the test split."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from monkeyray.model.head import head_logits
from monkeyray.statistics.splits import TEST, Folds
from monkeyray.training.assess import (
    OUT_OF_FOLD,
    VALIDATION,
    Assessment,
    assess,
    learning_curve,
    suspicious_labels,
)
from monkeyray.training.dataset import Dataset

LABELS = ["a", "b", "c"]
IMAGES = 900


@pytest.fixture(scope="module")
def vectors() -> Any:
    rng = np.random.default_rng(0)
    centres = 2.2 * np.eye(3, 6)[np.arange(IMAGES) % 3]
    return (centres[:, None] + rng.normal(size=(IMAGES, 2, 6))).astype(np.float32)


def dataset(test: bool = True) -> Dataset:
    """Three in ten images for a test, of which 30 leak, and three folds of the rest."""
    place = np.arange(IMAGES) // 3 % 10
    is_test = (place >= 7) & test
    leaked = np.zeros(IMAGES, bool)
    leaked[np.flatnonzero(is_test)[:30]] = True
    return Dataset(
        images=pa.table({}), uris=np.arange(IMAGES).astype(str), table=pa.table({}),
        vectors=np.empty((IMAGES, 1, 1)), thumbnails=np.empty((IMAGES, 32, 32)), labels=LABELS,
        folds=Folds(np.arange(IMAGES) % 3, np.where(is_test, TEST, place % 3)),
        pictures=np.arange(IMAGES), groups=np.arange(IMAGES), test=is_test, leaked=leaked,
        locations=None, sequences=np.arange(IMAGES), contradictions=[], data={},
    )  # fmt: skip


def assessed(data: Dataset, vectors: Any, scale: float, target: float | None = None) -> Assessment:
    """An assessment in which all heads are the same."""
    fold_heads = dict.fromkeys(range(3), head(scale))
    return assess(data, vectors, head(scale), fold_heads, OUT_OF_FOLD, target)


def head(scale: float) -> dict[str, Any]:
    """A head that is right, with a confidence that grows with `scale`."""
    return {
        "0000/kernel": (scale * np.eye(6, 3)).astype(np.float32),
        "0001/bias": np.zeros(3, np.float32),
    }


def test_the_temperature_undoes_what_is_too_unsure(vectors: Any) -> None:
    sure, plain = (assessed(dataset(), vectors, scale) for scale in (0.5, 2.0))
    for views in ("1", "2"):
        one, other = (found.calibration[views]["temperature"] for found in (sure, plain))
        assert other / one == pytest.approx(4, rel=1e-3)
    # One view is less reliable than two, and says so.
    assert plain.calibration["1"]["temperature"] > 1.2 * plain.calibration["2"]["temperature"]
    np.testing.assert_allclose(sure.probabilities, plain.probabilities, atol=1e-4)
    calibration = sure.metrics["calibration"]
    assert calibration["source"] == "out-of-fold"
    assert calibration["images"] == 630
    assert calibration["after"]["ece"] < 0.05 < calibration["before"]["ece"]
    assert sure.metrics["test_calibration"]["after"]["ece"] < 0.06
    assert sure.calibration["2"]["thresholds"] is sure.metrics["thresholds"] is None


def test_figures_of_a_given_test_split_are_the_published_heads(vectors: Any) -> None:
    data = dataset()
    found = assessed(data, vectors, 2.0, 0.9)
    metrics = json.loads(json.dumps(found.metrics, allow_nan=False))
    logits = head_logits(head(2.0), vectors.mean(axis=1))
    right = logits.argmax(axis=1) == data.folds.truth
    assert metrics["test"]["images"] == 270
    assert metrics["test"]["accuracy"] == pytest.approx(right[data.test].mean())
    assert metrics["estimate"]["images"] == 630
    assert metrics["estimate"]["accuracy"] == pytest.approx(right[~data.test].mean())
    clean = np.flatnonzero(data.test)[30:]
    assert metrics["test"]["without_leaks"]["images"] == 240
    assert metrics["test"]["without_leaks"]["accuracy"] == pytest.approx(right[clean].mean())
    assert [row["views"] for row in metrics["views"]] == [1, 2]
    for figures in ("estimate", "test"):
        assert metrics["views"][1][figures] == metrics[figures]["accuracy"]
        assert metrics["views"][1][figures] > metrics["views"][0][figures]
    assert metrics["thresholds"]["results"]["images"] == 270
    assert metrics["thresholds"]["results"]["precision"] >= 0.85
    assert metrics["thresholds"]["results"]["coverage"] > 0.3
    assert metrics["coverage"][-1]["coverage"] == 1
    assert 0 <= metrics["outliers"]["test_above_1"] < 0.15
    assert found.outliers.score(np.full((1, 6), -9, np.float32), 2)[0] > 1
    for views in (1, 2):
        scores = found.outliers.score(vectors[data.test, :views].mean(axis=1), views)
        assert 0 <= np.mean(scores > 1) < 0.15
    assert found.unseen.all()
    assert metrics["figures"] == (
        "The out-of-fold figures are those of 3 heads, each measured on the fold that it was "
        "trained without, 630 images in all; the published head was trained on all 630 images, and "
        "the test figures are its own, on 270 images not used in its training."
    )


def test_without_a_test_split_the_folds_are_shown(vectors: Any) -> None:
    metrics = json.loads(json.dumps(assessed(dataset(test=False), vectors, 2.0, 0.9).metrics))
    assert metrics["test"] is metrics["test_calibration"] is None
    assert metrics["outliers"]["test_above_1"] is None
    assert {row["test"] for row in metrics["views"]} == {None}
    assert metrics["estimate"]["images"] == metrics["thresholds"]["results"]["images"] == IMAGES
    assert metrics["figures"].endswith("the published head was trained on all 900 images.")


def test_the_test_split_influences_no_choice(vectors: Any) -> None:
    data = dataset()
    wrong = data.folds.truth.copy()
    wrong[data.test] = (wrong[data.test] + 1) % 3
    other = replace(data, folds=Folds(wrong, data.folds.fold))
    found = [assessed(each, vectors, 2.0, 0.9) for each in (data, other)]
    assert found[0].calibration == found[1].calibration
    assert found[0].metrics["test"] != found[1].metrics["test"]
    for key, array in found[0].outliers.to_arrays().items():
        np.testing.assert_array_equal(array, found[1].outliers.to_arrays()[key])


def test_each_image_is_predicted_by_the_head_trained_without_it(vectors: Any) -> None:
    data = dataset()
    # The head of the second fold gets everything wrong.
    bad = {key: np.roll(array, 1, axis=-1) for key, array in head(2.0).items()}
    fold_heads = {0: head(2.0), 1: bad, 2: head(2.0)}
    found = assess(data, vectors, head(2.0), fold_heads, OUT_OF_FOLD, None)
    estimate = found.metrics["estimate"]
    assert min(estimate["folds"][0], estimate["folds"][2]) > 0.9
    assert estimate["folds"][1] < 0.1
    assert found.metrics["test"]["accuracy"] > 0.9
    errors = suspicious_labels(data, found)
    in_bad_fold = set(np.flatnonzero(data.folds.fold == 1).tolist())
    assert len(errors) > 150
    assert {each.index for each in errors[:150]} <= in_bad_fold


def test_the_learning_curve_uses_heads_that_have_not_seen_the_image(vectors: Any) -> None:
    data = replace(dataset(), vectors=vectors)
    fold_heads = dict.fromkeys(range(3), head(2.0))
    assert learning_curve(data, {}, fold_heads) is None
    # On the subset, the head of the first fold gets everything wrong.
    subset = {0: {k: np.roll(x, 1, axis=-1) for k, x in head(1.0).items()}, 1: head(1), 2: head(1)}
    weights = {f"subset-0.5/{n}/{k}": x for n, each in subset.items() for k, x in each.items()}
    found = learning_curve(data, weights | {"subset-0.5/images": np.array([210.0])}, fold_heads)
    assert found is not None
    first, last = found["points"]
    assert (first["images"], last["images"]) == (210, 420)
    right = assessed(data, vectors, 2.0).metrics["estimate"]
    wrong = np.mean(data.folds.fold[~data.test] == 0)
    assert last["accuracy"] == right["accuracy"]
    assert 1 - first["accuracy"] >= wrong
    now, twice = found["expected"]
    assert (now["images"], twice["images"]) == (630, 1260)
    assert last["accuracy"] < now["accuracy"] < twice["accuracy"] <= 1


def test_a_fine_tuned_network_is_measured_on_its_validation_images(vectors: Any) -> None:
    data = dataset(test=False)
    found = assess(data, vectors, head(2.0), {0: head(2.0)}, VALIDATION, None)
    its = data.folds.fold == 0
    assert found.metrics["estimate"]["images"] == its.sum()
    assert found.metrics["estimate"]["source"] == found.metrics["calibration"]["source"]
    np.testing.assert_array_equal(found.unseen, its)
    others = (~its).sum()
    assert f"it was trained on the other {others} images" in found.metrics["figures"]


def test_seen_and_unseen_cameras_are_measured_by_heads_that_have_or_have_not_seen_them(
    vectors: Any,
) -> None:
    """The head of the third fold gets everything wrong."""
    data = dataset()
    fold = data.folds.fold
    # Six locations, two to a fold; every fifth image is held back from the next fold's head.
    site = np.array([f"{max(f, 0)}-{i // 450}" for i, f in enumerate(fold)], dtype=object)
    site[data.test] = np.where(np.arange(data.test.sum()) % 3, "0-0", "new")
    second = np.where((fold >= 0) & (np.arange(IMAGES) % 5 == 0), (fold + 1) % 3, -1)
    data = replace(data, locations=site, folds=replace(data.folds, second=second))
    bad = {key: np.roll(array, 1, axis=-1) for key, array in head(2.0).items()}
    found = assess(
        data, vectors, head(2.0), {0: head(2.0), 1: head(2.0), 2: bad}, OUT_OF_FOLD, None
    )
    metrics = json.loads(json.dumps(found.metrics))
    cameras = metrics["estimate"]["cameras"]
    assert cameras["unseen"]["accuracy"] == pytest.approx(metrics["estimate"]["accuracy"])
    assert cameras["unseen"]["images"] == metrics["estimate"]["images"] == 630
    assert (cameras["unseen"]["locations"], cameras["seen"]["locations"]) == (6, 6)
    assert cameras["seen"]["images"] == (second >= 0).sum() == len(data.folds.held_back(3))
    logits = head_logits(head(2.0), vectors.mean(axis=1)).argmax(axis=1) == data.folds.truth
    wrong = head_logits(bad, vectors.mean(axis=1)).argmax(axis=1) == data.folds.truth
    right = np.where(second == 2, wrong, logits)[second >= 0]
    assert cameras["seen"]["accuracy"] == pytest.approx(right.mean())
    its = np.where(fold == 2, wrong, logits)[second >= 0]
    assert cameras["same_images"] == pytest.approx(its.mean())
    low, high = cameras["unseen"]["accuracy_interval"]
    assert high - low > 3 * np.diff(cameras["unseen"]["naive_interval"])[0]
    test = metrics["test"]["cameras"]
    assert (test["seen"]["images"], test["unseen"]["images"]) == (180, 90)
    assert test["unseen"]["accuracy_interval"] is None
    # The report's table is of the test split, and names are not in the bundle.
    assert found.by_location is not None
    assert {row["location"] for row in found.by_location} == {"0-0", "new"}
    assert "by_location" not in json.dumps(metrics)
    assert "each measured on the cameras that it was trained without" in metrics["figures"]


def test_label_errors_are_of_sequences(vectors: Any) -> None:
    data = dataset(test=False)
    wrong = data.folds.truth.copy()
    wrong[[0, 3, 6]] = 1
    data = replace(
        data,
        folds=replace(data.folds, truth=wrong),
        sequences=np.where(np.isin(np.arange(IMAGES), [0, 3, 6]), 0, data.sequences),
    )
    found = suspicious_labels(data, assessed(data, vectors, 2.0))
    (row,) = (each for each in found if each.index in {0, 3, 6})
    assert (row.images, row.given, row.suggested) == (3, 1, 0)
    assert {each.images for each in found} == {1, 3}
