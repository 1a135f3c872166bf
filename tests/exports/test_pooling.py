"""Pooling: the same means in whatever order and lots the images come."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.exports.pooling import Pool, distribute_residual


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
)
def test_means_do_not_depend_on_order_and_lots(bursts: list[int], lots: list[int]) -> None:
    _, number, sizes = np.unique(bursts, return_inverse=True, return_counts=True)
    scores = np.random.default_rng(len(bursts)).dirichlet(np.ones(4), len(bursts))
    pool, found = Pool(sizes), {}
    at = 0
    while at < len(bursts):
        size = lots[at % len(lots)]
        numbers, means = pool.add(number[at : at + size], scores[at : at + size])
        for one, mean in zip(numbers.tolist(), means, strict=True):
            assert one not in found
            found[one] = mean
        at += size
    assert len(pool) == 0
    assert sorted(found) == list(range(len(sizes)))
    for one, mean in found.items():
        np.testing.assert_allclose(mean, scores[number == one].mean(axis=0))


def test_nothing_comes_of_nothing() -> None:
    numbers, means = Pool(np.array([1])).add(np.empty(0, np.int64), np.empty((0, 3)))
    assert len(numbers) == len(means) == 0


def test_only_open_bursts_are_held() -> None:
    pool = Pool(np.array([2, 1, 2]))
    pool.add(np.array([2, 0, 1]), np.eye(3))
    assert len(pool) == 2
    pool.add(np.array([0]), np.eye(3)[:1])
    assert len(pool) == 1


def test_the_rest_is_spread_evenly_and_never_above_what_is_listed() -> None:
    listed = np.array([[0.5, 0.25, 0, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2], [0, 0.1, 0, 0, 0]])
    scores, rest = distribute_residual(listed)
    np.testing.assert_allclose(scores[0], [0.5, 0.25, 0.25 / 3, 0.25 / 3, 0.25 / 3])
    np.testing.assert_array_equal(scores[1], listed[1])
    assert scores[2].argmax() == 1
    assert scores[2, 0] < 0.1
    np.testing.assert_allclose(rest, [0.25, 0, 0.9], atol=1e-12)
