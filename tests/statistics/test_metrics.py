"""Figures against values worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.statistics.metrics import (
    accuracy_and_loss,
    classification_metrics,
    cross_entropy,
    softmax,
    top_k_accuracy,
    wilson,
)


def test_probabilities_and_loss() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    np.testing.assert_allclose(softmax(logits + 1000), np.exp(logits))
    expected = -(np.log(0.7) + np.log(0.1)) / 2
    assert cross_entropy(logits, np.array([0, 1])) == pytest.approx(expected)


def test_figures_of_each_label() -> None:
    # truth a a a b; predicted a a b b; c neither is nor is claimed
    logits = np.eye(3)[[0, 0, 1, 1]] * 5
    figures = classification_metrics(logits, np.array([0, 0, 0, 1]), ["a", "b", "c"])
    assert figures["accuracy"] == 0.75
    assert figures["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    a, b, c = figures["per_label"]
    assert (a["precision"], a["recall"], a["f1"]) == (1.0, 2 / 3, 0.8)
    assert (b["precision"], b["recall"], b["f1"]) == (0.5, 1.0, 2 / 3)
    assert (c["images"], c["precision"], c["recall"], c["f1"]) == (0, None, None, None)
    assert figures["macro_recall"] == pytest.approx(5 / 6)
    assert figures["macro_precision"] == pytest.approx(3 / 4)
    assert [row["predicted"] for row in (a, b, c)] == [2, 2, 0]


def test_intervals_belong_to_their_shares() -> None:
    logits = np.eye(3)[[0, 0, 1, 1]]
    figures = classification_metrics(logits, np.array([0, 0, 0, 1]), ["a", "b", "c"])
    a, b, c = figures["per_label"]
    assert figures["accuracy_interval"] == wilson(3 / 4, 4)
    assert a["precision_interval"] == wilson(1.0, 2)
    assert a["recall_interval"] == wilson(2 / 3, 3)
    assert b["precision_interval"] == wilson(0.5, 2)
    assert b["recall_interval"] == wilson(1.0, 1)
    assert c["precision_interval"] is c["recall_interval"] is None


def test_top_k_accuracy() -> None:
    # the true label is 1st, 2nd, 4th; in the last row, among equals, 3rd
    logits = np.array([[4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [0, 0, 0, 0]])
    truth = np.array([0, 1, 3, 2])
    assert [top_k_accuracy(logits, truth, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert classification_metrics(logits, truth, list("abcd"))["top_k_accuracy"] == {
        "2": 0.5,
        "3": 0.75,
    }


def test_empty_input_has_no_metrics() -> None:
    empty = classification_metrics(np.zeros((0, 2)), np.zeros(0, int), ["a", "b"])
    assert (empty["images"], empty["accuracy"], empty["loss"]) == (0, None, None)
    assert empty["macro_precision"] is empty["accuracy_interval"] is None
    assert top_k_accuracy(np.zeros((0, 2)), np.zeros(0, int), 1) is None
    assert "NaN" not in json.dumps(empty, allow_nan=False)


@settings(deadline=None)  # the first example imports scikit-learn
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(-3, 3), min_size=4, max_size=4)),
        max_size=40,
    )
)
def test_figures_agree_with_scikit_learn(rows: list[tuple[int, list[int]]]) -> None:
    from sklearn.metrics import accuracy_score, precision_score, recall_score

    truth = np.array([label for label, _ in rows], int)
    logits = np.array([values for _, values in rows], float).reshape(-1, 4)
    figures = classification_metrics(logits, truth, list("abcd"))
    json.dumps(figures, allow_nan=False)
    if not rows:
        return
    predicted = logits.argmax(axis=1)
    assert figures["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert top_k_accuracy(logits, truth, 1) == figures["accuracy"]
    assert top_k_accuracy(logits, truth, 4) == 1.0
    claimed, present = np.unique(predicted), np.unique(truth)
    assert figures["macro_precision"] == pytest.approx(
        precision_score(truth, predicted, labels=claimed, average="macro")
    )
    assert figures["macro_recall"] == pytest.approx(
        recall_score(truth, predicted, labels=present, average="macro")
    )
    assert accuracy_and_loss(logits, truth).items() <= figures.items()


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3
@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 1 - 0.1611, 1.0),
    ],
)
def test_wilson_interval(right: int, images: int, low: float, high: float) -> None:
    assert wilson(right / images, images) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_of_nothing() -> None:
    assert wilson(None, 10) is None
    assert wilson(0.0, 0) is None


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_encloses_the_share(case: tuple[int, int]) -> None:
    right, images = case
    bounds = wilson(right / images, images)
    assert bounds is not None
    assert 0 <= bounds[0] <= right / images + 1e-12
    assert right / images - 1e-12 <= bounds[1] <= 1
