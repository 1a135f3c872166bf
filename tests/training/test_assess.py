"""What is said of a trained head: choices from unseen images alone, figures from the test split."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from monkeyray.model.head import head_logits
from monkeyray.training.assess import assess, suspicious_labels
from monkeyray.training.dataset import Dataset
from monkeyray.training.loop import Splits

LABELS = ["a", "b", "c"]
IMAGES = 900


@pytest.fixture(scope="module")
def vectors() -> Any:
    rng = np.random.default_rng(0)
    centres = 2.2 * np.eye(3, 6)[np.arange(IMAGES) % 3]
    return (centres[:, None] + rng.normal(size=(IMAGES, 2, 6))).astype(np.float32)


def dataset(folds: bool = False) -> Dataset:
    truth = np.arange(IMAGES) % 3
    split = np.arange(IMAGES) // 3 % 10
    train, validation, test = split < 5, (split >= 5) & (split < 7), split >= 7

    def splits(test: Any) -> Splits:
        return Splits(truth, *(np.flatnonzero(x) for x in (train & ~test, validation, test)))

    leaked = np.zeros(IMAGES, bool)
    leaked[np.flatnonzero(test)[:30]] = True
    return Dataset(
        images=pa.table({}), uris=np.arange(IMAGES).astype(str), table=pa.table({}),
        vectors=np.empty((IMAGES, 1, 1)), labels=LABELS, splits=splits(test),
        folds=(splits(split < 4), splits((split >= 4) & (split < 7))) if folds else (),
        names=np.select([train, validation], ["train", "validation"], "test"),
        pictures=np.arange(IMAGES), groups=np.arange(IMAGES), leaked=leaked,
        contradictions=[], data={},
    )  # fmt: skip


def head(scale: float) -> dict[str, Any]:
    """The right answer, as sure of itself as `scale` says."""
    return {
        "0000/kernel": (scale * np.eye(6, 3)).astype(np.float32),
        "0001/bias": np.zeros(3, np.float32),
    }


def test_the_temperature_undoes_what_is_too_unsure(vectors: Any) -> None:
    sure, plain = (assess(dataset(), vectors, head(scale), [], None) for scale in (0.5, 2.0))
    for views in ("1", "2"):
        one, other = (found.calibration[views]["temperature"] for found in (sure, plain))
        assert other / one == pytest.approx(4, rel=1e-3)
    # One view is less reliable than two, and says so.
    assert plain.calibration["1"]["temperature"] > 1.2 * plain.calibration["2"]["temperature"]
    np.testing.assert_allclose(sure.probabilities, plain.probabilities, atol=1e-4)
    calibration = sure.metrics["calibration"]
    assert calibration["source"] == "validation"
    assert calibration["images"] == 180
    assert calibration["after"]["ece"] < 0.05 < calibration["before"]["ece"]
    assert sure.metrics["test_calibration"]["after"]["ece"] < 0.06
    assert sure.calibration["2"]["thresholds"] is sure.metrics["thresholds"] is None


def test_figures_are_the_tests_and_json(vectors: Any) -> None:
    data = dataset()
    found = assess(data, vectors, head(2.0), [], 0.9)
    metrics = json.loads(json.dumps(found.metrics, allow_nan=False))
    logits = head_logits(head(2.0), vectors.mean(axis=1))
    right = logits.argmax(axis=1) == data.splits.truth
    assert metrics["test"]["images"] == 270
    assert metrics["test"]["accuracy"] == pytest.approx(right[data.splits.test].mean())
    clean = data.splits.test[30:]
    assert metrics["test"]["without_leaks"]["images"] == 240
    assert metrics["test"]["without_leaks"]["accuracy"] == pytest.approx(right[clean].mean())
    assert [row["views"] for row in metrics["views"]] == [1, 2]
    assert metrics["views"][1]["test"] == metrics["test"]["accuracy"]
    assert metrics["views"][1]["test"] > metrics["views"][0]["test"]
    assert metrics["folds"] is None
    assert metrics["thresholds"]["test"]["precision"] >= 0.85
    assert metrics["thresholds"]["test"]["coverage"] > 0.3
    assert metrics["coverage"][-1]["coverage"] == 1
    assert 0 <= metrics["outliers"]["test_above_1"] < 0.15
    assert found.outliers.score(np.full((1, 6), -9, np.float32), 2)[0] > 1
    for views in (1, 2):
        scores = found.outliers.score(vectors[data.splits.test, :views].mean(axis=1), views)
        assert 0 <= np.mean(scores > 1) < 0.15
    np.testing.assert_array_equal(found.unseen, data.names != "train")


def test_what_the_test_part_says_decides_nothing(vectors: Any) -> None:
    data = dataset()
    wrong = data.splits.truth.copy()
    wrong[data.splits.test] = (wrong[data.splits.test] + 1) % 3
    other = Dataset(
        **{**vars(data), "splits": Splits(wrong, *list(vars(data.splits).values())[1:])}
    )
    found = [assess(each, vectors, head(2.0), [], 0.9) for each in (data, other)]
    assert found[0].calibration == found[1].calibration
    assert found[0].metrics["test"] != found[1].metrics["test"]
    for key, array in found[0].outliers.to_arrays().items():
        np.testing.assert_array_equal(array, found[1].outliers.to_arrays()[key])


def test_folds_judge_each_image_by_the_model_that_has_not_seen_it(vectors: Any) -> None:
    data = dataset(folds=True)
    # The second fold's head has it all wrong.
    bad = {key: np.roll(array, 1, axis=-1) for key, array in head(2.0).items()}
    found = assess(data, vectors, head(2.0), [head(2.0), bad], None)
    folds = found.metrics["folds"]
    assert folds["accuracies"][0] > 0.9
    assert folds["accuracies"][1] < 0.1
    assert folds["mean"] == pytest.approx(np.mean(folds["accuracies"]))
    assert folds["interval"] == [0.0, 1.0]
    assert folds["images"] == folds["pooled"]["images"] == 630
    assert found.metrics["calibration"]["source"] == "out-of-fold"
    assert found.unseen.all()
    errors = suspicious_labels(found, data.splits.truth)
    in_bad_fold = set(data.folds[1].test.tolist())
    assert len(errors) > 200
    assert {each.index for each in errors[:150]} <= in_bad_fold
