"""Grouping into bursts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.exports.burst_groups import Groups, group_bursts

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
