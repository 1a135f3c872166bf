"""Temperatures that are known, and calibration errors worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.statistics.calibration import (
    LEAST,
    MOST,
    calibrate,
    ece_interval,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from monkeyray.statistics.metrics import cross_entropy, softmax


def _drawn(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of 4 labels, and a truth that is drawn from their own softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (images, 4))
    ranks = softmax(logits).cumsum(axis=1)
    return logits, (rng.random((images, 1)) > ranks).sum(axis=1).clip(0, 3)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_finds_the_temperature_that_was_put_in(factor: float) -> None:
    logits, truth = _drawn(20_000)
    assert fit_temperature(logits * factor, truth) == pytest.approx(factor, rel=0.05)


def test_temperature_worked_out_by_hand() -> None:
    # 3 of 4 right at logits (1, 0), and one error more: the best softmax says 3/5, which is logits
    # of ln 3/2
    logits, truth = np.array([[1.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    assert fit_temperature(logits, truth) == pytest.approx(1 / np.log(1.5), rel=1e-4)


def test_all_correct_gives_the_rule_of_succession() -> None:
    logits, truth = np.tile([[2.0, 0.0]], (99, 1)), np.zeros(99, int)
    score = softmax(logits / fit_temperature(logits, truth))[0, 0]
    assert score == pytest.approx(99 / 100, abs=1e-4)


def test_temperature_where_none_can_be_fitted() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, int)) == 1.0
    wrong = fit_temperature(np.eye(3) * 9, np.array([1, 2, 0]))
    assert wrong == pytest.approx(MOST, rel=1e-3)  # bounded, though flatter would fit still better


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_temperature_is_a_local_optimum(seed: int, factor: float) -> None:
    logits, truth = _drawn(60, seed)
    best = fit_temperature(logits * factor, truth)
    assert LEAST <= best <= MOST
    second = np.argsort(logits, axis=1)[:, -2]

    def loss(temperature: float) -> float:
        scaled = logits * factor / temperature
        return 60 * cross_entropy(scaled, truth) + cross_entropy(scaled, second)

    for other in (best * 0.98, best * 1.02, 1.0):
        assert loss(best) <= loss(other) + 1e-6


def test_calibration_error_by_hand() -> None:
    # (0.6, 0.6667]: 1 of 2 right at 0.65; (0.8667, 0.9333]: 2 of 2 right at 0.9
    confidence = np.array([0.64, 0.66, 0.9, 0.9])
    correct = np.array([True, False, True, True])
    assert expected_calibration_error(confidence, correct) == pytest.approx(0.5 * 0.15 + 0.5 * 0.1)
    assert expected_calibration_error(confidence, correct, bins=1) == pytest.approx(0.775 - 0.75)


def test_a_score_on_an_edge_belongs_below_it() -> None:
    rows = reliability(np.array([0.5, 0.5001, 1.0, 0.0]), np.array([True, False, True, True]), 2)
    assert [row["images"] for row in rows] == [2, 2]
    assert (rows[0]["low"], rows[0]["high"], rows[1]["high"]) == (0.0, 0.5, 1.0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_calibration_error_is_that_of_the_diagram(
    images: list[tuple[float, bool]], bins: int
) -> None:
    confidence = np.array([score for score, _ in images])
    correct = np.array([right for _, right in images])
    error = expected_calibration_error(confidence, correct, bins)
    rows = [row for row in reliability(confidence, correct, bins) if row["images"]]
    assert sum(row["images"] for row in rows) == len(images)
    assert all(row["low"] - 1e-12 <= row["confidence"] <= row["high"] + 1e-12 for row in rows)
    assert error == pytest.approx(
        sum(row["images"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(images)
    )
    # coarser bins can only let errors cancel out
    whole = expected_calibration_error(confidence, correct, 1)
    assert whole is not None
    assert error is not None
    assert whole <= error + 1e-12 <= 1 + 2e-12


def test_interval_narrows_with_images_and_is_seeded() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 4000)
    correct = rng.random(4000) < confidence - 0.1  # 0.1 too sure everywhere
    few = ece_interval(confidence[:200], correct[:200])
    many = ece_interval(confidence, correct)
    assert few is not None
    assert many is not None
    assert 0.085 < many[0] < (expected_calibration_error(confidence, correct) or 0) < many[1] < 0.13
    assert many[1] - many[0] < (few[1] - few[0]) / 2
    assert many == ece_interval(confidence, correct)
    # As if images were drawn one by one.
    draws = rng.integers(0, 4000, (1000, 4000))
    errors = [expected_calibration_error(confidence[i], correct[i]) or 0.0 for i in draws]
    assert many == pytest.approx(np.percentile(errors, [2.5, 97.5]), abs=0.003)
    assert ece_interval(confidence[:0], correct[:0]) is None


def test_calibrating_mends_what_is_too_sure() -> None:
    logits, truth = _drawn(5000)
    found = calibrate(logits * 3, truth)
    json.dumps(found, allow_nan=False)
    assert found["images"] == 5000
    assert found["temperature"] == pytest.approx(3, rel=0.1)
    assert found["after"]["loss"] < found["before"]["loss"]
    assert found["after"]["ece"] < 0.02 < 0.1 < found["before"]["ece"]
    assert found["before"]["ece_interval"][0] <= found["before"]["ece"]
    other = calibrate(logits, truth, temperature=2.0)
    assert (other["temperature"], other["fitted_here"]) == (2.0, False)
    assert other["after"]["loss"] == pytest.approx(cross_entropy(logits / 2, truth))


def test_calibrating_nothing() -> None:
    found = calibrate(np.zeros((0, 3)), np.zeros(0, int))
    json.dumps(found, allow_nan=False)
    assert (found["temperature"], found["after"]["ece"], found["images"]) == (1.0, None, 0)
    assert all(row["accuracy"] is None for row in found["after"]["reliability"])
