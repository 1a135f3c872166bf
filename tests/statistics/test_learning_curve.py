"""Subsets are nested and stratified, and the extrapolation is a power law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.statistics.learning_curve import expected_accuracy, subset_ranks


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(-1, 2)), min_size=1),
    st.integers(0, 5),
)
def test_subsets_are_stratified_by_label_and_fold_and_keep_groups_together(
    images: list[tuple[int, int, int]], seed: int
) -> None:
    truth, groups, fold = np.array(images).T
    ranks = subset_ranks(truth, groups, fold, seed)
    for label, number in set(zip(truth.tolist(), fold.tolist(), strict=True)):
        its = (truth == label) & (fold == number)
        np.testing.assert_allclose(np.sort(ranks[its]), np.arange(its.sum()) / its.sum())
        # Each group is contiguous in the order.
        ordered = groups[its][np.argsort(ranks[its], kind="stable")]
        assert 1 + (np.diff(ordered) != 0).sum() == len(set(ordered.tolist()))


def test_errors_fall_as_a_power_of_the_images() -> None:
    sizes = np.array([100, 200, 400])
    errors = 0.2 * (sizes / 100) ** -0.5
    found = expected_accuracy(sizes, 1 - errors, 10**7, np.array([400, 800, 1600]))
    np.testing.assert_allclose(1 - found, [0.1, 0.1 / np.sqrt(2), 0.05], rtol=1e-4)


@pytest.mark.parametrize("accuracies", [[0.9, 0.8], [1.0, 1.0], [0.0, 0.0]])
def test_more_images_never_lower_the_expected_accuracy(accuracies: list[float]) -> None:
    found = expected_accuracy(np.array([50, 100]), np.array(accuracies), 100, np.array([100, 200]))
    assert 0 <= found[0] <= found[1] <= 1
