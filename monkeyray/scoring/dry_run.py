"""The dry run of a scoring: score a few images, discard the result, estimate the time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from monkeyray.console import Result, Say, counted
from monkeyray.runs.lease import hold
from monkeyray.runs.place import create_run
from monkeyray.runs.plan import Listing
from monkeyray.runs.workers.decode_process import Work
from monkeyray.runs.workers.pools import Pool
from monkeyray.runs.workers.worker import Job
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.scoring.summary import NOTHING_SCORED, nothing_scored
from monkeyray.storage.location import Location

_TRIAL_IMAGES = 64


@dataclass(frozen=True, repr=False)
class Estimate(Result):
    """Result of a dry run. `rate`: images/s of all workers, None if too few were tried."""

    images: int
    tried: Counter[str]
    rate: float | None
    workers: int

    @property
    def exit_code(self) -> int:
        """Its command's exit code, 3 if no image could be scored."""
        return NOTHING_SCORED if nothing_scored(self.tried) else 0

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `dry_run`, true; the number of `images`; those `tried`, by status;
        `workers`, and the `images_per_second` of all of them, null if too few were tried."""
        return {
            "dry_run": True,
            "images": self.images,
            "tried": dict(self.tried),
            "workers": self.workers,
            "images_per_second": self.rate,
        }

    def __str__(self) -> str:
        tried = ", ".join(f"{count} {status}" for status, count in self.tried.most_common())
        lines = [f"{counted(self.images, 'image')}; {self.tried.total()} tried: {tried}"]
        if self.rate:
            minutes = self.images / self.rate / 60
            time = f"{minutes / 60:.1f} hours" if minutes > 90 else f"{minutes:.1f} minutes"
            lines.append(
                f"{self.rate:.1f} images/s with {counted(self.workers, 'worker')}: about {time}, "
                "plus start-up"
            )
        if self.exit_code:
            lines.append("NONE OF THEM COULD BE SCORED: check their paths before the whole run")
        return "\n".join([*lines, "dry run: nothing was kept"])


def estimate(
    place: Location, listing: Listing, work: Work, pool: Pool, workers: WorkerCount, say: Say
) -> Estimate:
    """Score about 64 of the images, evenly spaced, with one worker, and estimate the time for all.

    The trial is written below `place`, so that it meets the same storage as the job, and deleted.
    """
    chosen = np.zeros(listing.rows, bool)
    chosen[:: max(1, listing.rows // _TRIAL_IMAGES)] = True
    sample = listing.only(chosen)
    trial = place / f".trial-{time.time_ns()}"
    half = -(-sample.rows // 2)
    sizes = [size for size in (half, sample.rows - half) if size]
    try:
        with hold(trial, work.storage, lambda line: None) as lease:
            run = create_run(trial, lease, {}, sample, sizes, ending="trial")
            job, one = Job("scoring", run, work), replace(workers, workers=1, cpus=1.0, grows=False)
            pool.run(job, list(range(len(sizes))), one, say, lambda rows: None)
            tables = [table for _, table in run.read_files(["status", "predicted_at"])]
    finally:
        work.storage.delete_tree(trial)
    # The first half warms up the network; the second is timed, from last row to last row.
    ends = [pc.max(table["predicted_at"]).as_py() for table in tables if table.num_rows]
    seconds = (ends[-1] - ends[0]).total_seconds() if len(ends) > 1 else None
    tried = Counter(status for table in tables for status in table["status"].to_pylist())
    rate = sizes[-1] / seconds * workers.processes if seconds else None
    return Estimate(listing.rows, tried, rate, workers.workers)
