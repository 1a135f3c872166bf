"""Which images are a burst: those of one camera that follow each other within a gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Groups:
    """Images as bursts, which are numbered by camera and time.

    `burst`: the number of each image's. By burst: `sizes`, its images; `first`, the image that was
    taken first; `begin` and `end`, the first and the last of its images as they are listed.
    """

    burst: Ints
    sizes: Ints
    first: Ints
    begin: Ints
    end: Ints

    def most_open(self) -> int:
        """How many bursts there are at most of which, as the images are read in the order in which
        they are listed, some have been read and some have not."""
        change = np.zeros(len(self.burst) + 1, np.int32)
        np.add.at(change, self.begin, 1)
        np.add.at(change, self.end, -1)
        return int(change.cumsum().max(initial=0))


def group_bursts(cameras: Ints, times: Ints, alone: Flags, gap: int) -> Groups:
    """Images to bursts, some 60 bytes an image.

    `cameras`: numbers (n,); `times` (n,) and `gap` in one unit. The next image of a camera is of
    the same burst where it was taken within the gap, both ends included, however long the burst is
    by then; of two at the same time, the first listed is the first. Those that are `alone` are
    bursts of one whatever their camera and time.

    >>> nobody = np.zeros(4, bool)
    >>> group_bursts(np.array([0, 1, 0, 0]), np.array([9, 5, 4, 14]), nobody, 5).burst.tolist()
    [0, 1, 0, 0]
    """
    order = np.lexsort((times, cameras, alone))
    apart = np.ones(len(order), np.bool_)
    apart[1:] = np.diff(cameras[order]) != 0
    apart[1:] |= np.diff(times[order]) > gap
    apart |= alone[order]
    # Those that are alone come last, in whatever order their cameras and times give; the first of
    # them is set apart by itself.
    starts = np.flatnonzero(apart)
    burst = np.empty(len(order), np.int64)
    burst[order] = np.cumsum(apart) - 1
    sizes = np.diff(starts, append=len(order))
    if not len(order):
        return Groups(burst, sizes, order, order, order)
    begin, end = np.minimum.reduceat(order, starts), np.maximum.reduceat(order, starts)
    return Groups(burst, sizes, order[starts], begin, end)
