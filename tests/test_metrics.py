"""Figures against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from monkeyray.metrics import cross_entropy, evaluate, softmax


def test_probabilities_and_loss() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    np.testing.assert_allclose(softmax(logits + 1000), np.exp(logits))
    expected = -(np.log(0.7) + np.log(0.1)) / 2
    assert cross_entropy(logits, np.array([0, 1])) == pytest.approx(expected)


def test_figures_of_each_label() -> None:
    # truth a a a b; predicted a a b b; c neither is nor is claimed
    logits = np.eye(3)[[0, 0, 1, 1]] * 5
    figures = evaluate(logits, np.array([0, 0, 0, 1]), ["a", "b", "c"])
    assert figures["accuracy"] == 0.75
    assert figures["confusion"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    a, b, c = figures["per_label"]
    assert (a["precision"], a["recall"], a["f1"]) == (1.0, 2 / 3, 0.8)
    assert (b["precision"], b["recall"], b["f1"]) == (0.5, 1.0, 2 / 3)
    assert (c["images"], c["precision"], c["recall"], c["f1"]) == (0, None, None, None)
    assert figures["macro_recall"] == pytest.approx(5 / 6)
