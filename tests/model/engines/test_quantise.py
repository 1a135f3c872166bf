"""A backbone in int8: what a training says of it, and what is compared."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from monkeyray.errors import ConfigError
from monkeyray.model.engines.quantise import check_installed, compare
from monkeyray.training.summary import Trained


def test_a_training_reports_the_effect_of_int8(quantised: Trained) -> None:
    metrics = quantised.model["metrics"]
    found = metrics["int8"]
    assert found["images"] > 0
    assert found["calibrated_on"] == quantised.model["data"]["splits"]["train"]
    assert found["accuracy"]["float32"] == metrics["estimate"]["folds"][0]
    assert found["agreement"] == 1
    assert 0 < found["score_change"] < 0.02
    assert min(found["speed"].values()) > 0
    # In bytes, where the bundle's floats of the backbone take two each.
    assert 3e6 < found["bytes"] < 4e6


def test_labels_and_scores_are_compared() -> None:
    # The features of two views are the logits themselves, of which the mean is taken.
    head = {"00/kernel": np.eye(2), "01/bias": np.zeros(2)}
    exact = np.array([[[4, 0], [0, 0]], [[0, 4], [0, 0]], [[2, 0], [2, 0]], [[0, 2], [0, 2]]])
    other = exact.copy()
    other[1, 1] = [8, 0]
    found = compare(head, 2.0, exact, other, np.array([0, 1, 1, 1]))
    assert (found["images"], found["agreement"]) == (4, 0.75)
    assert found["accuracy"] == {"float32": 0.75, "int8": 0.5}
    assert found["agreement_interval"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert found["score_change"] == pytest.approx(0)  # one label as sure as the other before
    other[1, 1] = [40, 0]
    change = compare(head, 2.0, exact, other, np.zeros(4, int))["score_change"]
    assert change == pytest.approx((1 / (1 + np.exp(-9)) - 1 / (1 + np.exp(-1))) / 4)


def test_without_test_images_nothing_is_compared() -> None:
    head = {"00/kernel": np.eye(2), "01/bias": np.zeros(2)}
    none = np.zeros((0, 1, 2))
    found = compare(head, 1.0, none, none, np.zeros(0, int))
    assert found == {
        "images": 0, "accuracy": {"float32": None, "int8": None}, "agreement": None,
        "agreement_interval": None, "score_change": None,
    }  # fmt: skip


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "openvino" or None)
    with pytest.raises(ConfigError, match=r"pip install 'monkeyray\[int8\]'"):
        check_installed()
