"""No picture on two sides, every label on each."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.errors import InputError
from monkeyray.statistics.splits import SPLITS, divide, fold_images, split_images


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), min_size=1, max_size=150),
    st.integers(0, 5),
)
def test_a_split_divides_no_group(images: list[tuple[str, int]], seed: int) -> None:
    labels = [label for label, _ in images]
    names = {key: i for i, key in enumerate(dict.fromkeys(images))}
    groups = np.array([names[image] for image in images])
    free: list[str | None] = [None] * len(images)
    try:
        assigned = split_images(labels, groups, free, 0.2, 0.2, seed)
    except InputError:
        assert min(len({g for x, g in images if x == label}) for label in labels) < 3
        return
    assert not assigned.leaked.any()
    for group in set(groups.tolist()):
        assert len(set(assigned.names[groups == group])) == 1
    for label in set(labels):
        its = assigned.names[np.array(labels) == label]
        assert set(its) == set(SPLITS)
    again = split_images(labels, groups, free, 0.2, 0.2, seed)
    assert again.names.tolist() == assigned.names.tolist()


def test_shares_are_kept_and_the_seed_counts() -> None:
    labels = ["a"] * 200 + ["b"] * 100
    free: list[str | None] = [None] * 300
    groups = np.arange(300)
    splits = [split_images(labels, groups, free, 0.15, 0.1, seed).names for seed in (0, 1)]
    assert [(splits[0] == split).sum() for split in SPLITS] == [225, 45, 30]
    assert splits[0].tolist() != splits[1].tolist()


def test_given_parts_stay_and_leaks_are_found() -> None:
    given_: list[str | None] = [*["train"] * 8, "test", "test"]
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 8])
    assigned = split_images(["a"] * 10, groups, given_, 0.2, 0.2, 0)
    assert assigned.names[8:].tolist() == ["test", "test"]
    assert set(assigned.names[:8]) == {"train", "validation"}
    assert assigned.leaked.tolist() == [False] * 8 + [True, False]


def test_too_few_pictures_are_named() -> None:
    with pytest.raises(InputError, match=r"'a' has 2 different pictures in 5 images"):
        split_images(["a"] * 5, np.array([0, 0, 0, 0, 1]), [None] * 5, 0.2, 0.2, 0)


def sites(rare: int, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
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
def test_labels_that_share_sites_are_in_every_part(seed: int) -> None:
    labels, groups = sites(3, np.random.default_rng(seed))
    free: list[str | None] = [None] * len(labels)
    splits = split_images(labels, groups, free, 0.15, 0.15, seed).names
    assert len(set(zip(groups.tolist(), splits.tolist(), strict=True))) == 20
    for label in "abc":
        assert set(splits[np.array(labels) == label]) == set(SPLITS)
    for split in ("validation", "test"):
        assert np.mean(splits == split) == pytest.approx(0.15, abs=0.05)
    again = split_images(labels, groups, free, 0.15, 0.15, seed).names
    np.testing.assert_array_equal(splits, again)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 8)), min_size=1, max_size=80),
    st.lists(st.sampled_from([None, None, "train", "test"]), min_size=80, max_size=80),
    st.integers(0, 3),
)
def test_no_new_part_divides_a_group_or_touches_a_given_one(
    images: list[tuple[str, int]], splits: list[str | None], seed: int
) -> None:
    labels = [label for label, _ in images]
    groups = np.array([group for _, group in images])
    fixed = splits[: len(images)]
    try:
        assigned = split_images(labels, groups, fixed, 0.2, 0.2, seed)
    except InputError:
        return
    new = {"validation"} if "test" in fixed else {"validation", "test"}
    assert {split for split in assigned.names if split in new} == new
    assert set(labels) == set(np.array(labels)[assigned.names == "train"])
    for split in new:
        inside = set(groups[assigned.names == split].tolist())
        assert not inside & set(groups[assigned.names != split].tolist())
    assert not assigned.validation_leaked.any()
    assert all(assigned.names[i] == "test" for i, its in enumerate(fixed) if its == "test")


def test_what_a_given_part_shares_stays_in_train() -> None:
    labels = ["a"] * 12
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3])
    for split, other in (("test", "validation"), ("validation", "test")):
        fixed: list[str | None] = [*[None] * 8, *[split] * 4]
        for seed in range(10):
            assigned = split_images(labels, groups, fixed, 0.4, 0.4, seed)
            assert set(assigned.names[:4]) == {"train"}
            assert set(assigned.names[4:8]) == {"train", other}
            assert (assigned.leaked.sum(), assigned.validation_leaked.sum()) == (
                (4, 0) if split == "test" else (0, 4)
            )
    with pytest.raises(InputError, match="no image can be in the validation split"):
        split_images(["a"] * 4, np.array([0, 1, 0, 1]), [None, None, "test", "test"], 0.2, 0.2, 0)


def test_labels_in_too_few_groups_are_told_so() -> None:
    labels, groups = sites(2, np.random.default_rng(0))
    words = (
        r"'c' is in 2 groups \(8 different pictures in 8 images\), the split needs 3, since "
        "groups stay together"
    )
    with pytest.raises(InputError, match=words):
        split_images(
            labels, groups, [None] * len(labels), 0.2, 0.2, 0, pictures=np.arange(len(labels))
        )


def test_every_image_is_tested_in_one_fold_and_no_group_is_divided() -> None:
    rng = np.random.default_rng(0)
    labels = [str(label) for label in rng.integers(0, 3, 200)]
    groups = np.array([int(label) * 1000 + rng.integers(0, 20) for label in labels])
    eligible = np.arange(200) >= 30
    folds = fold_images(labels, groups, eligible, 4, 0.2, seed=1)
    assert len(folds) == 4
    tested = np.stack([fold == "test" for fold in folds]).sum(axis=0)
    np.testing.assert_array_equal(tested, eligible)
    for fold in folds:
        assert set(fold[~eligible]) == {""}
        assert set(fold[eligible]) == set(SPLITS)
        sides = set(zip(groups[eligible], fold[eligible], strict=True))
        assert len(sides) == len({group for group, _ in sides})
        for label in set(labels):
            its = fold[np.array(labels) == label]
            assert (its == "train").any()
    again = fold_images(labels, groups, eligible, 4, 0.2, seed=1)
    for one, other in zip(folds, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_folds_need_pictures() -> None:
    eligible = np.ones(8, bool)
    with pytest.raises(InputError, match=r"label 'b' has 1 different .* \(with --folds 4\)"):
        fold_images(["a"] * 6 + ["b"] * 2, np.arange(8), eligible, 4, 0.2, 0)
    with pytest.raises(InputError, match="--folds 2 needs at least two different pictures"):
        fold_images(["a"] * 8, np.zeros(8, int), eligible, 2, 0.2, 0)


def test_more_folds_than_images_of_any_label_are_as_many_as_there_can_be() -> None:
    labels = ["a"] * 6 + ["b"] * 4
    folds = fold_images(labels, np.arange(10), np.ones(10, bool), 8, 0.2, 0)
    assert len(folds) == 6
    assert (np.stack([fold == "test" for fold in folds]).sum(axis=0) == 1).all()
    with pytest.raises(InputError, match=r"--folds 5 needs .* a label with two images"):
        fold_images(["a", "b"], np.arange(2), np.ones(2, bool), 5, 0.2, 0)


@pytest.mark.parametrize("seed", range(10))
def test_folds_of_sites_with_a_rare_label(seed: int) -> None:
    labels, groups = sites(4, np.random.default_rng(seed))
    for fold in fold_images(labels, groups, np.ones(len(labels), bool), 4, 0.15, seed):
        assert (fold[np.array(labels) == "c"] == "train").any()


SHARES = {"train": 0.6, "test": 0.2, "validation": 0.2}


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.integers(1, 9), min_size=1),
        min_size=1,
        max_size=15,
    ),
    st.sets(st.sampled_from("abc")),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_no_label_is_taken_from_train(
    groups: list[dict[str, int]], held: set[str], seed: int
) -> None:
    several = Counter(label for counts in groups for label in counts)
    if min(several.values()) < 3:
        return
    counts = dict(enumerate(groups))
    totals: Counter[str] = sum(map(Counter, groups), Counter({x: x in held for x in several}))
    sides = divide(counts, totals, SHARES, seed)
    assert set(sides.values()) == set(SHARES)
    left = {label for group in counts if sides[group] == "train" for label in counts[group]}
    assert set(totals) <= left | held
    assert sides == divide(counts, totals, SHARES, seed)


def test_the_label_with_the_least_choice_comes_first() -> None:
    # c is in three groups only, in which a and b have far more images.
    counts = {i: Counter(a=50, b=40) + Counter(c=2 * (i >= 17)) for i in range(20)}
    totals: Counter[str] = sum(counts.values(), Counter())
    for seed in range(20):
        sides = divide(counts, totals, SHARES, seed)
        assert {sides[i] for i in range(17, 20)} == set(SHARES)
        assert Counter(sides.values()) == {"train": 12, "test": 4, "validation": 4}


def test_what_is_in_train_already_needs_no_group_there() -> None:
    sides = divide({0: {"a": 1}, 1: {"a": 1}}, {"a": 9}, SHARES, 0)
    assert set(sides.values()) == {"test", "validation"}
