"""No group in two folds, and every label in as many as it can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.arrays import Array
from monkeyray.errors import InputError
from monkeyray.statistics.splits import (
    HELD_BACK,
    IN_NO_FOLD,
    LEAST_LOCATIONS,
    TEST,
    Folds,
    fold_images,
    fold_locations,
)


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


@given(
    images=st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(-1, 9), st.integers(0, 4), st.booleans()),
        min_size=1,
        max_size=150,
    ),
    folds=st.integers(2, 6),
    seed=st.integers(0, 3),
)
def test_locations_of_a_fold_are_seen_by_all_other_heads_and_by_no_other_image(
    images: list[tuple[str, int, int, bool]], folds: int, seed: int
) -> None:
    labels = [label for label, *_ in images]
    places, number, test = (np.array([image[i] for image in images]) for i in (1, 2, 3))
    # Groups lie within a location.
    groups = places * 5 + number + 5
    arguments = (labels, groups, places, test, folds, seed)
    wide = {
        label
        for label in set(labels)
        if len({p for x, p, _, out in images if x == label and p >= 0 and not out})
        >= LEAST_LOCATIONS
    }
    if not wide:
        with pytest.raises(InputError, match="no label is at 3 different locations"):
            fold_locations(*arguments)
        return
    fold, second = fold_locations(*arguments)
    truth = np.unique(labels, return_inverse=True)[1]
    found = Folds(truth, fold, None, second)
    heads = found.count + 1
    learns = found.seen(np.arange(len(images)), heads) * (fold != TEST)[:, None]
    np.testing.assert_array_equal(fold == TEST, test)
    assert not (fold == second)[fold >= 0].any()
    assert learns[~test, -1].all()
    held, back = found.held_out(heads), found.held_back(heads)
    for image in held:
        # A label at few locations is measured nowhere, and one that is is known to the head.
        assert labels[image] in wide
        head = fold[image]
        assert learns[truth == truth[image], head].any()
        assert not learns[places == places[image], head].any()
    for place in np.unique(places[held]):
        assert len(set(fold[held[places[held] == place]])) == 1
    for image in back:
        head = second[image]
        assert learns[truth == truth[image], head].any()
        assert learns[places == places[image], head].any()
        assert not learns[groups == groups[image], head].any()
    for group in np.unique(groups[held]):
        assert len({(fold[i], second[i]) for i in held if groups[i] == group}) == 1
    assert not (fold[places < 0] >= 0).any()
    for again, before in zip(fold_locations(*arguments), (fold, second), strict=True):
        np.testing.assert_array_equal(again, before)


def test_a_share_of_each_location_is_held_back_from_all_heads_in_turn() -> None:
    places = np.repeat(np.arange(12), 100)
    labels = [*"ab"] * 600
    fold, second = fold_locations(labels, np.arange(1200), places, none(1200), 4, 0)
    assert np.bincount(fold).tolist() == [300] * 4
    for place in range(12):
        assert (second[places == place] >= 0).sum() == HELD_BACK * 100
    shares = np.bincount(second[second >= 0])
    assert shares.sum() == 240
    assert shares == pytest.approx(60, abs=5)
    # As many heads learn from as many images as without locations, but for these.
    learned = Folds(np.zeros(1200, int), fold, None, second).seen(np.arange(1200), 5).sum(axis=0)
    assert learned.tolist() == [*(900 - shares), 1200]


def test_labels_at_few_locations_do_not_give_their_location_away() -> None:
    places = np.repeat(np.arange(6), 10)
    labels = np.array(["a", "b"] * 30, dtype=object)
    labels[places == 3] = "rare"
    labels[places == 4] = ["a", "rare"] * 5
    fold, second = fold_locations(labels.tolist(), np.arange(60), places, none(60), 3, 0)
    rare = labels == "rare"
    assert set(fold[rare]) == {IN_NO_FOLD}
    # One that has nothing else is learned by all heads, the other not by that of its location.
    assert set(second[places == 3]) == {IN_NO_FOLD}
    assert set(second[(places == 4) & rare]) == set(fold[(places == 4) & ~rare])
