"""No picture on two sides, every label on each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import InputError
from monkeyray.splits import PARTS, fold_images, split_images


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
        split = split_images(labels, groups, free, 0.2, 0.2, seed)
    except InputError:
        assert min(len({g for x, g in images if x == label}) for label in labels) < 3
        return
    assert not split.leaked.any()
    for group in set(groups.tolist()):
        assert len(set(split.parts[groups == group])) == 1
    for label in set(labels):
        its = split.parts[np.array(labels) == label]
        assert set(its) == set(PARTS)
    again = split_images(labels, groups, free, 0.2, 0.2, seed)
    assert again.parts.tolist() == split.parts.tolist()


def test_shares_are_kept_and_the_seed_counts() -> None:
    labels = ["a"] * 200 + ["b"] * 100
    free: list[str | None] = [None] * 300
    groups = np.arange(300)
    parts = [split_images(labels, groups, free, 0.15, 0.1, seed).parts for seed in (0, 1)]
    assert [(parts[0] == part).sum() for part in PARTS] == [225, 45, 30]
    assert parts[0].tolist() != parts[1].tolist()


def test_given_parts_stay_and_leaks_are_found() -> None:
    given_: list[str | None] = [*["train"] * 8, "test", "test"]
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 8])
    split = split_images(["a"] * 10, groups, given_, 0.2, 0.2, 0)
    assert split.parts[8:].tolist() == ["test", "test"]
    assert set(split.parts[:8]) == {"train", "validation"}
    assert split.leaked.tolist() == [False] * 8 + [True, False]


def test_too_few_pictures_are_named() -> None:
    with pytest.raises(InputError, match=r"'a' has 2 different pictures in 5 images"):
        split_images(["a"] * 5, np.array([0, 0, 0, 0, 1]), [None] * 5, 0.2, 0.2, 0)


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
        assert set(fold[eligible]) == set(PARTS)
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
    with pytest.raises(InputError, match="--folds 2 needs two different pictures"):
        fold_images(["a"] * 8, np.zeros(8, int), eligible, 2, 0.2, 0)
