"""What bursts are found by: the camera and the time of every image in predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import RunError
from monkeyray.exports.deployments import Deployments
from monkeyray.exports.origins import origin
from monkeyray.exports.rows import Predictions, listed_labels, relative
from monkeyray.exports.sites import SitePattern
from monkeyray.progress import Advance

Array = np.ndarray[Any, Any]

#: Why an image can be in no burst with others; the first that holds.
_NOT_SCORED, _NO_CAMERA, _NO_TIME = "not scored", "no camera in their path", "no time in their EXIF"

_NO_NAME = ("",)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Survey:
    """All rows in order.

    `cameras`: numbers of `names`, int64 (n,). `times`: microseconds since 1970 by the camera's own
    clock, made right by its deployment's clock offset, int64 (n,); 0 where not `timed`. `alone`: a
    burst of its own. `labels`: all that are listed, sorted. `counts`: those alone, by why.
    """

    cameras: Array
    times: Array
    timed: Array
    alone: Array
    names: list[tuple[str, ...]]
    labels: list[str]
    counts: dict[str, int]

    def ids(self, rows: Array, uris: pa.ChunkedArray) -> Array:
        """64-bit names of the bursts that begin with these images."""
        cameras = self.cameras[rows].tolist()
        return np.array(
            [
                int.from_bytes(_digest((*self.names[camera], uri)), "big")
                for camera, uri in zip(cameras, uris.to_pylist(), strict=True)
            ],
            np.uint64,
        )


def _digest(parts: tuple[str, ...]) -> bytes:
    # Names of files may hold anything but a zero byte.
    return hashlib.sha256("\0".join(parts).encode()).digest()[:8]


def survey(
    predictions: Predictions,
    root: str,
    pattern: SitePattern | None,
    deployments: Deployments | None,
    advance: Advance,
) -> Survey:
    """One pass over the rows.

    Images of a camera are compared by the clock of that camera alone, so no time zone is needed. Of
    images that no deployment, or no single one, claims, those that the pattern finds the same in
    are of one camera.
    """
    rows = predictions.rows
    cameras = np.zeros(rows, np.int64)
    times = np.zeros(rows, np.int64)
    timed, scored = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    numbers: dict[tuple[str, ...], int] = {_NO_NAME: 0}
    labels: set[str] = set()
    columns = ["uri", "label", "captured_at", "top_k"]
    for part, table in numbered(predictions, columns, advance):
        labels |= listed_labels(table["top_k"])
        scored[part] = pc.is_valid(table["label"]).to_numpy()
        times[part], timed[part] = wall_times(table["captured_at"])
        found = [
            origin(relative(uri, root) or "", captured_at, pattern, deployments)
            for uri, captured_at in zip(
                table["uri"].to_pylist(), table["captured_at"].to_pylist(), strict=True
            )
        ]
        names = [each.camera or _NO_NAME for each in found]
        cameras[part] = [numbers.setdefault(name, len(numbers)) for name in names]
        offsets = [each.clock_offset // _MICROSECOND for each in found]
        times[part] += np.where(timed[part], offsets, 0)
    alone = np.zeros(rows, np.bool_)
    counts = {}
    for why, those in ((_NOT_SCORED, ~scored), (_NO_CAMERA, cameras == 0), (_NO_TIME, ~timed)):
        counts[why] = int((those & ~alone).sum())
        alone |= those
    return Survey(cameras, times, timed, alone, list(numbers), sorted(labels), counts)


def numbered(
    predictions: Predictions, columns: list[str], advance: Advance
) -> Iterator[tuple[slice, pa.Table]]:
    """All rows, some thousand at a time, each time with their numbers.

    Raises RunError where they are more or fewer than the plan has.
    """
    row = 0
    for table in predictions.tables(columns, advance):
        part = slice(row, row + table.num_rows)
        row = part.stop
        if row <= predictions.rows:
            yield part, table
    if row != predictions.rows:
        raise RunError(
            f"{predictions.run.uri} has {row} rows for {predictions.rows} planned images: it was "
            "changed by another program; run the scoring command again"
        )


def wall_times(captured_at: pa.ChunkedArray) -> tuple[Array, Array]:
    """Local times in ISO 8601 as microseconds since 1970, int64, and which of them are there."""
    wall = pc.utf8_slice_codeunits(captured_at, 0, 19)
    found = pc.strptime(wall, format="%Y-%m-%dT%H:%M:%S", unit="us", error_is_null=True)
    there = pc.is_valid(found).to_numpy()
    return pc.fill_null(found.cast(pa.int64()), 0).to_numpy(), there
