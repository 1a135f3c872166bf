"""The images of a training: how much each counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.dataset import weigh


@given(st.lists(st.integers(0, 4), min_size=1, max_size=100), st.sampled_from(["balanced", "sqrt"]))
def test_weights_are_one_on_average_and_favour_the_rare(truth: list[int], kind: str) -> None:
    labels = np.array(truth)
    train = np.arange(len(labels))
    weight = weigh(labels, train, kind)
    assert weight is not None
    assert weight.mean() == pytest.approx(1)
    counts = np.bincount(labels, minlength=5)
    each = {label: weight[labels == label][0] for label in set(truth)}
    for one in each:
        for other in each:
            ratio = (counts[other] / counts[one]) ** (1 if kind == "balanced" else 0.5)
            assert each[one] / each[other] == pytest.approx(ratio)


def test_only_training_images_are_counted() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    assert weigh(truth, np.arange(8), "none") is None
    for train, expected in (([0, 1, 3, 4], [1, 1]), ([0, 3, 4, 5], [2, 2 / 3])):
        weight = weigh(truth, np.array(train), "balanced")
        assert weight is not None
        np.testing.assert_allclose(weight[[0, 7]], expected)
