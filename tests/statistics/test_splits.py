"""No group in two folds, and every label in as many as it can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.arrays import Array
from monkeyray.errors import InputError
from monkeyray.statistics.splits import IN_NO_FOLD, TEST, fold_images


def none(images: int) -> Array:
    return np.zeros(images, bool)


@given(
    images=st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 12), st.booleans(), st.booleans()),
        min_size=1,
        max_size=120,
    ),
    folds=st.integers(2, 6),
    seed=st.integers(0, 5),
    fixed=st.booleans(),
)
def test_folds_divide_no_group_and_lack_no_label(
    images: list[tuple[str, int, bool, bool]], folds: int, seed: int, fixed: bool
) -> None:
    labels = [label for label, *_ in images]
    groups, test, first = (np.array([image[i] for image in images]) for i in (1, 2, 3))
    arguments = (labels, groups, test, folds, seed, first if fixed else None)
    if lacking := set(labels) - set(np.array(labels)[~test]):
        with pytest.raises(InputError, match=f"'{min(lacking)}' has no image to train on"):
            fold_images(*arguments)
        return
    try:
        fold = fold_images(*arguments)
    except InputError:
        # A single group for each label, or groups that hang together by their labels.
        return
    np.testing.assert_array_equal(fold == TEST, test)
    count = int(fold.max()) + 1
    assert 1 <= count <= folds
    assert set(fold[fold >= 0]) == set(range(count))
    for group in np.unique(groups[~test]):
        assert len(set(fold[(groups == group) & ~test])) == 1
    # A head that does not learn from a fold has seen each of its labels elsewhere.
    for number in range(count):
        seen = {labels[i] for i in np.flatnonzero((fold != number) & ~test)}
        assert {labels[i] for i in np.flatnonzero(fold == number)} <= seen
    np.testing.assert_array_equal(fold, fold_images(*arguments))


def test_labels_are_spread_and_the_seed_counts() -> None:
    labels = ["a"] * 202 + ["b"] * 98
    folds = [fold_images(labels, np.arange(300), none(300), 5, seed) for seed in (0, 1)]
    for fold in folds:
        assert np.bincount(fold).tolist() == [60] * 5
        assert set(np.bincount(fold[:202])) == {40, 41}
    assert folds[0].tolist() != folds[1].tolist()


def sites(rare: int, rng: np.random.Generator) -> tuple[list[str], Array]:
    """The labels and site numbers of photographs of 20 sites: a most often, b in all but hardly
    ever most often, c in `rare` sites."""
    labels: list[str] = []
    groups: list[int] = []
    for site in range(20):
        counts = {
            "a": 40,
            "b": 50 if site == 0 else int(rng.integers(5, 35)),
            "c": 4 * (site < rare),
        }
        for label, count in counts.items():
            labels += [label] * count
            groups += [site] * count
    order = rng.permutation(len(labels))
    return [labels[i] for i in order], np.array(groups)[order]


@pytest.mark.parametrize("seed", range(10))
def test_labels_that_share_sites_are_in_every_fold(seed: int) -> None:
    labels, groups = sites(4, np.random.default_rng(seed))
    fold = fold_images(labels, groups, none(len(labels)), 4, seed)
    assert len(set(zip(groups.tolist(), fold.tolist(), strict=True))) == 20
    for label in "abc":
        assert set(fold[np.array(labels) == label]) == {0, 1, 2, 3}
    assert np.bincount(fold) / len(fold) == pytest.approx(0.25, abs=0.05)


def test_images_of_a_group_with_a_test_image_are_in_a_fold() -> None:
    test = np.array([False] * 8 + [True, True])
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 8])
    fold = fold_images(["a"] * 10, groups, test, 4, 0)
    assert fold[8:].tolist() == [TEST, TEST]
    assert np.bincount(fold[:8]).tolist() == [2, 2, 2, 2]


def test_given_images_and_their_groups_are_the_first_fold() -> None:
    first = np.array([True] * 3 + [False] * 9)
    groups = np.array([0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    fold = fold_images(["a"] * 12, groups, none(12), 3, 0, first)
    assert fold[:4].tolist() == [0] * 4
    assert np.bincount(fold).tolist() == [4, 4, 4]


def test_a_label_in_one_group_is_in_no_fold() -> None:
    labels = [*"aaaaabbc", "c", "a"]
    # Both c are in one group, with an a.
    fold = fold_images(labels, np.array([0, 1, 2, 3, 4, 5, 6, 7, 7, 7]), none(10), 5, 1)
    assert sorted(fold[:5]) == [0, 1, 2, 3, 4]
    assert fold[5] != fold[6]
    assert fold[7:].tolist() == [IN_NO_FOLD] * 3


def test_there_are_no_more_folds_than_groups() -> None:
    fold = fold_images(["a"] * 6 + ["b"] * 4, np.arange(10), none(10), 50, 0)
    assert int(fold.max()) + 1 == len(set(fold.tolist())) <= 10


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="no label has two different pictures"):
        fold_images(["a"] * 8 + ["b"], np.array([0] * 8 + [1]), none(9), 2, 0)
    with pytest.raises(InputError, match="label 'b' has no image to train on"):
        fold_images(["a", "a", "b"], np.arange(3), np.array([False, False, True]), 2, 0)
