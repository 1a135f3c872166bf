"""Grouping into bursts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.exports.burst_groups import BurstMeans, Groups, distribute_residual, group_bursts

IMAGES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-30, 60), st.booleans()), min_size=1, max_size=50
)


def groups(images: list[tuple[int, int, bool]], gap: int) -> Groups:
    cameras, times, alone = (np.array(column) for column in zip(*images, strict=True))
    return group_bursts(cameras, times, alone.astype(bool), gap)


@given(IMAGES, st.integers(0, 10))
def test_images_are_together_where_they_follow_each_other(
    images: list[tuple[int, int, bool]], gap: int
) -> None:
    found = groups(images, gap)
    members: dict[int, list[int]] = {}
    for row, number in enumerate(found.burst.tolist()):
        members.setdefault(number, []).append(row)
    assert sorted(members) == list(range(len(found.sizes)))
    edges = []
    for number, rows in members.items():
        assert found.sizes[number] == len(rows)
        assert (found.begin[number], found.end[number]) == (rows[0], rows[-1])
        cameras, times, alone = zip(*(images[row] for row in rows), strict=True)
        assert len(set(cameras)) == 1
        assert len(rows) == 1 or not any(alone)
        ordered = sorted(times)
        assert images[found.first[number]][1] == ordered[0]
        assert found.first[number] == min(row for row in rows if images[row][1] == ordered[0])
        assert all(b - a <= gap for a, b in pairwise(ordered))
        if not alone[0]:
            edges.append((cameras[0], ordered[0], ordered[-1]))
    edges.sort()
    for (one, _, end), (other, start, _) in pairwise(edges):
        assert one != other or start - end > gap
    most = max(
        sum(b <= row < e for b, e in zip(found.begin, found.end, strict=True))
        for row in range(len(images))
    )
    assert found.most_open() == most


def test_no_images() -> None:
    nothing = np.empty(0, np.int64)
    found = group_bursts(nothing, nothing, nothing.astype(bool), 5)
    assert len(found.burst) == len(found.sizes) == found.most_open() == 0


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40),
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
)
def test_means_do_not_depend_on_order_and_lots(bursts: list[int], lots: list[int]) -> None:
    _, number, sizes = np.unique(bursts, return_inverse=True, return_counts=True)
    scores = np.random.default_rng(len(bursts)).dirichlet(np.ones(4), len(bursts))
    pool, found = BurstMeans(sizes), {}
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


def test_empty_input_gives_no_bursts() -> None:
    numbers, means = BurstMeans(np.array([1])).add(np.empty(0, np.int64), np.empty((0, 3)))
    assert len(numbers) == len(means) == 0


def test_memory_holds_only_open_bursts() -> None:
    pool = BurstMeans(np.array([2, 1, 2]))
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
