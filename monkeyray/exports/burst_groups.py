"""Bursts, images of one camera that follow each other within a gap, and their mean scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array, Flags, Ints
from monkeyray.console import Advance
from monkeyray.errors import RunError
from monkeyray.exports.job import Source
from monkeyray.images.times import wall_times
from monkeyray.runs.reader import Predictions
from monkeyray.scoring.schema import listed_labels


@dataclass(frozen=True)
class Groups:
    """Bursts of images, numbered by camera and time.

    `burst`: the number of each image's burst. For each burst: `sizes`, its images; `first`, the
    image that was taken first; `begin` and `end`, its first and last image in the listing.
    """

    burst: Ints
    sizes: Ints
    first: Ints
    begin: Ints
    end: Ints

    def most_open(self) -> int:
        """The maximum number of bursts that are partly read when the images are read in order."""
        change = np.zeros(len(self.burst) + 1, np.int32)
        np.add.at(change, self.begin, 1)
        np.add.at(change, self.end, -1)
        return int(change.cumsum().max(initial=0))


def group_bursts(cameras: Ints, times: Ints, alone: Flags, gap: int) -> Groups:
    """Group images into bursts, with some 60 bytes per image.

    `cameras`: numbers (n,); `times` (n,) and `gap` in the same unit. The next image of a camera
    belongs to the same burst if it was taken within the gap (inclusive), however long the burst is.
    Images with the same time keep their order. Images that are `alone` are bursts of one.

    >>> nobody = np.zeros(4, bool)
    >>> group_bursts(np.array([0, 1, 0, 0]), np.array([9, 5, 4, 14]), nobody, 5).burst.tolist()
    [0, 1, 0, 0]
    """
    order = np.lexsort((times, cameras, alone))
    apart = np.ones(len(order), np.bool_)
    apart[1:] = np.diff(cameras[order]) != 0
    apart[1:] |= np.diff(times[order]) > gap
    apart |= alone[order]
    # Images that are alone come last, and each of them starts a burst.
    starts = np.flatnonzero(apart)
    burst = np.empty(len(order), np.int64)
    burst[order] = np.cumsum(apart) - 1
    sizes = np.diff(starts, append=len(order))
    if not len(order):
        return Groups(burst, sizes, order, order, order)
    begin, end = np.minimum.reduceat(order, starts), np.maximum.reduceat(order, starts)
    return Groups(burst, sizes, order[starts], begin, end)


#: Why an image cannot be in a burst with others; the first that applies.
_NOT_SCORED, _NO_CAMERA = "not scored", "no camera in their path"
_NO_TIME = "no time in their EXIF: give a table of --times"

_NO_NAME = ("",)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Survey:
    """The cameras and times of all rows, in order.

    `cameras`: indices in `names`, int64 (n,). `times`: the camera's local time, corrected by its
    deployment's clock offset, in microseconds since 1970, int64 (n,); 0 if not `timed`. `alone`:
    a burst of its own. `labels`: all listed labels, sorted. `counts`: images alone, by reason.
    """

    cameras: Array
    times: Array
    timed: Array
    alone: Array
    names: list[tuple[str, ...]]
    labels: list[str]
    counts: dict[str, int]

    def ids(self, rows: Array, uris: pa.ChunkedArray) -> Array:
        """64-bit identifiers of the bursts that begin with these images."""
        cameras = self.cameras[rows].tolist()
        return np.array(
            [
                int.from_bytes(_digest((*self.names[camera], uri)), "big")
                for camera, uri in zip(cameras, uris.to_pylist(), strict=True)
            ],
            np.uint64,
        )


def _digest(names: tuple[str, ...]) -> bytes:
    # File names may contain any byte but zero.
    return hashlib.sha256("\0".join(names).encode()).digest()[:8]


def survey(source: Source, advance: Advance) -> Survey:
    """Read the cameras and times in one pass.

    Only times of the same camera are compared, so no time zone is needed. Images without a single
    matching deployment are of the camera that the pattern finds.
    """
    rows = source.predictions.rows
    cameras = np.zeros(rows, np.int64)
    times = np.zeros(rows, np.int64)
    timed, scored = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    numbers: dict[tuple[str, ...], int] = {_NO_NAME: 0}
    labels: set[str] = set()
    columns = ["uri", "label", "captured_at", "top_k"]
    for span, table in numbered(source.predictions, columns, advance):
        labels |= listed_labels(table["top_k"])
        scored[span] = pc.is_valid(table["label"]).to_numpy()
        times[span], timed[span] = wall_times(table["captured_at"])
        found = source.origins(table)
        names = [each.camera or _NO_NAME for each in found]
        cameras[span] = [numbers.setdefault(name, len(numbers)) for name in names]
        offsets = [each.clock_offset // _MICROSECOND for each in found]
        times[span] += np.where(timed[span], offsets, 0)
    alone = np.zeros(rows, np.bool_)
    counts = {}
    for why, those in ((_NOT_SCORED, ~scored), (_NO_CAMERA, cameras == 0), (_NO_TIME, ~timed)):
        counts[why] = int((those & ~alone).sum())
        alone |= those
    return Survey(cameras, times, timed, alone, list(numbers), sorted(labels), counts)


def numbered(
    predictions: Predictions, columns: list[str], advance: Advance
) -> Iterator[tuple[slice, pa.Table]]:
    """All rows, some thousand at a time, with their numbers.

    Raises RunError if there are more or fewer than planned.
    """
    row = 0
    for table in predictions.tables(columns, advance):
        span = slice(row, row + table.num_rows)
        row = span.stop
        if row <= predictions.rows:
            yield span, table
    if row != predictions.rows:
        raise RunError(
            f"{predictions.uri} has {row} rows for {predictions.rows} planned images: it was "
            "changed by another program; run the scoring command again"
        )


class BurstMeans:
    """The mean scores of bursts whose images arrive in any order.

    Holds one vector for each incomplete burst.

    >>> pool = BurstMeans(np.array([2, 1]))
    >>> pool.add(np.array([0, 1]), np.array([[0.5, 0.5], [1.0, 0.0]]))
    (array([1]), array([[1., 0.]]))
    >>> pool.add(np.array([0]), np.array([[0.25, 0.75]]))
    (array([0]), array([[0.375, 0.625]]))
    """

    def __init__(self, sizes: Array) -> None:
        """`sizes`: the number of images of each burst."""
        self._sizes = sizes
        self._open: dict[int, tuple[int, Array]] = {}

    def __len__(self) -> int:
        """The number of incomplete bursts."""
        return len(self._open)

    def add(self, bursts: Array, scores: Array) -> tuple[Array, Array]:
        """The bursts that these images complete: numbers (m,) and scores (m, labels).

        `bursts`: the number of each image's (n,); `scores`: probabilities, float64 (n, labels).
        """
        if not len(bursts):
            return bursts, scores
        order = np.argsort(bursts, kind="stable")
        numbers, starts, counts = np.unique(bursts[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(scores[order], starts, axis=0)
        complete = counts == self._sizes[numbers]
        for i in np.flatnonzero(~complete):
            number = int(numbers[i])
            seen, total = self._open.pop(number, (0, 0.0))
            counts[i] += seen
            sums[i] += total
            complete[i] = counts[i] == self._sizes[number]
            if not complete[i]:
                # A copy, since a view would keep all of `sums` in memory.
                self._open[number] = int(counts[i]), sums[i].copy()
        return numbers[complete], sums[complete] / counts[complete, None]


def distribute_residual(scores: Array) -> tuple[Array, Array]:
    """Distribute the residual probability of each row evenly among the labels it does not list.

    `scores`: float64 (n, labels), 0 for labels that are not listed, which get less than the
    smallest listed score. Returns the scores and the residual of each row, (n,), 0 if all labels
    are listed.
    """
    listed = scores > 0
    missing = scores.shape[1] - listed.sum(axis=1)
    rest = np.where(missing > 0, np.clip(1 - scores.sum(axis=1), 0, 1), 0.0)
    least = np.where(listed, scores, np.inf).min(axis=1, initial=np.inf)
    each = np.minimum(rest / np.maximum(missing, 1), least * (1 - 1e-9))
    return np.where(listed, scores, each[:, None]), rest
