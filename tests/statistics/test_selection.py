"""Diverse images: each choice is the farthest from those before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.statistics.selection import k_center, squared_distances, unit

points = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=9).map(
    lambda rows: np.array(rows, np.float32)
)


@settings(deadline=None)
@given(points, st.integers(0, 5), st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9))))
def test_each_pick_is_the_farthest_point(
    candidates: np.ndarray, count: int, given_centres: list[tuple[int, int]]
) -> None:
    centres = np.array(given_centres, np.float32).reshape(-1, 2)
    nearest = squared_distances(candidates, centres)
    chosen = k_center(candidates, count, nearest).tolist()
    assert len(chosen) == len(set(chosen)) == min(count, len(candidates))
    for i, choice in enumerate(chosen):
        before = np.concatenate([centres, candidates[chosen[:i]]])
        if not len(before):
            continue
        away = ((candidates[:, None] - before[None]) ** 2).sum(axis=2).min(axis=1)
        rest = [j for j in range(len(candidates)) if j not in chosen[:i]]
        assert away[choice] == max(away[rest])


@settings(deadline=None)
@given(points, st.integers(1, 4))
def test_cover_is_within_a_factor_of_two_of_the_optimum(candidates: np.ndarray, count: int) -> None:
    def radius(chosen: tuple[int, ...]) -> float:
        return float(np.sqrt(squared_distances(candidates, candidates[list(chosen)]).max()))

    count = min(count, len(candidates))
    best = min(map(radius, itertools.combinations(range(len(candidates)), count)))
    assert radius(tuple(k_center(candidates, count).tolist())) <= 2 * best + 1e-4


def test_the_first_choice_without_centres_is_in_the_middle() -> None:
    candidates = np.array([[9, 9], [0, 0], [-9, -8], [1, 0]], np.float32)
    assert k_center(candidates, 2).tolist() == [1, 0]
    assert k_center(candidates[:0], 3).tolist() == []


def test_distances_to_many_centres_and_to_none() -> None:
    rng = np.random.default_rng(0)
    candidates, centres = rng.normal(size=(7, 5)), rng.normal(size=(600, 5))
    expected = ((candidates[:, None] - centres[None]) ** 2).sum(axis=2).min(axis=1)
    assert squared_distances(candidates, centres) == pytest.approx(expected, rel=1e-5)
    assert np.isinf(squared_distances(candidates, centres[:0])).all()


def test_directions() -> None:
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]]))
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0, 0], [1, 0]]
    assert found.dtype == np.float32
