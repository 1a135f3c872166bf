"""Labels swapped on purpose are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.statistics.label_errors import LabelError, label_errors, label_quality

# Mean probability of the given label: 0.7 for 0, 0.65 for 1; nothing was given 2.
PROBABILITIES = np.array(
    [
        [0.9, 0.1, 0.0],
        [0.9, 0.1, 0.0],
        [0.3, 0.7, 0.0],  # surely 1, given 0
        [0.1, 0.9, 0.0],
        [0.6, 0.4, 0.0],  # given 1; 0 is likelier, but not surely
        [0.0, 0.65, 0.35],
    ]
)
TRUTH = np.array([0, 0, 0, 1, 1, 1])


def test_list_by_hand() -> None:
    assert label_quality(PROBABILITIES, TRUTH).tolist() == [0.9, 0.9, 0.3, 0.9, 0.4, 0.65]
    assert label_errors(PROBABILITIES, TRUTH) == [
        LabelError(index=2, given=0, suggested=1, quality=0.3, sure=True),
        LabelError(index=4, given=1, suggested=0, quality=0.4, sure=False),
    ]


def test_scores_are_compared_within_their_label() -> None:
    # Label 1 was given to one image that has 0.3 for it: so little is sure for 1, and image 0 has
    # more. For 0 it takes 0.75, which image 2 does not have, though 0 is its likelier label.
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]])
    assert label_errors(probabilities, np.array([0, 0, 1])) == [
        LabelError(index=2, given=1, suggested=0, quality=0.3, sure=False),
        LabelError(index=0, given=0, suggested=1, quality=0.6, sure=True),
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_swapped_labels_come_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, labels, swapped = 1000, 8, 30
    shown = rng.integers(0, labels, images)
    logits = rng.normal(0, 1, (images, labels))
    logits[np.arange(images), shown] += 5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong = rng.choice(images, swapped, replace=False)
    truth = shown.copy()
    truth[wrong] = (truth[wrong] + rng.integers(1, labels, swapped)) % labels
    found = label_errors(probabilities, truth)
    first = found[: images // 20]
    hits = [error for error in first if error.index in set(wrong.tolist())]
    assert len(hits) >= 0.95 * swapped
    assert sum(error.suggested == shown[error.index] for error in hits) >= 0.95 * len(hits)
    assert len(found) < images // 8


def test_empty_input_has_no_label_errors() -> None:
    assert label_errors(np.zeros((0, 3)), np.zeros(0, int)) == []
    assert label_errors(np.eye(3), np.arange(3)) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.integers(1, 5), min_size=3, max_size=3)),
        min_size=1,
        max_size=40,
    )
)
def test_sure_errors_are_off_the_confident_joints_diagonal(
    rows: list[tuple[int, list[int]]],
) -> None:
    truth = np.array([label for label, _ in rows])
    weights = np.array([row for _, row in rows], float)
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    found = label_errors(probabilities, truth)
    least = {label: probabilities[truth == label, label].mean() - 1e-12 for label in set(truth)}
    shown = {}
    for i, row in enumerate(probabilities):
        possible = [label for label in least if row[label] >= least[label]]
        if possible:
            shown[i] = max(possible, key=lambda label: (row[label], -label))
    off = {i: label for i, label in shown.items() if label != truth[i]}
    assert off == {error.index: error.suggested for error in found if error.sure}
    qualities = [error.quality for error in found]
    assert qualities == sorted(qualities)
    assert len({error.index for error in found}) == len(found)
    for error in found:
        assert error.given == truth[error.index] != error.suggested
    # whatever the model takes for something else is on the list
    doubted = weights.max(axis=1) > weights[np.arange(len(rows)), truth]
    assert set(np.flatnonzero(doubted)) <= {error.index for error in found}


@pytest.mark.parametrize("shape", [-1, (1, -1)])  # NumPy 2.0.0 has the second
def test_the_images_of_a_sequence_are_judged_together(
    shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sequence of a an image looks like b; another sequence is of b altogether."""
    unique = np.unique

    def shaped(*given: Any, **named: Any) -> Any:
        values, first, inverse, counts = unique(*given, **named)
        return values, first, inverse.reshape(shape), counts

    monkeypatch.setattr(np, "unique", shaped)
    shown = np.array([0, 1, 0, 0, 1, 1, 1, 0, 1])
    truth = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1])
    probabilities = np.where(np.eye(2)[shown] > 0, 0.9, 0.1)
    probabilities[5] = 0.02, 0.98
    sequences = np.array([0, 0, 0, 0, 4, 4, 4, 7, 8])
    found = label_errors(probabilities, truth, sequences)
    assert [(each.index, each.images) for each in found] == [(5, 3), (7, 1)]
    assert {each.index for each in label_errors(probabilities, truth)} == {1, 4, 5, 6, 7}
    alone = label_errors(probabilities, truth, np.arange(9))
    assert alone == label_errors(probabilities, truth)
