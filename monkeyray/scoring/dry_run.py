"""The dry run of a scoring: score a few images, discard the result, estimate the time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

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

#: How many images a worker without a GPU tries, and in how many parts it is timed.
_TRIAL_IMAGES, _PARTS = 64, 2

#: A worker with a GPU is timed in more parts, each of this many batches, or one for each decode
#: process if they are more: its engine computes up to eight batches at once.
_GPU_PARTS, _GPU_BATCHES = 8, 16


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
    """Score some of the images, evenly spaced, with one worker, and estimate the time for all.

    The trial is written below `place`, so that it uses the same storage as the job, and deleted.
    """
    one = replace(workers, workers=1, grows=False)
    wanted, parts = _TRIAL_IMAGES, _PARTS
    if one.decoders:
        parts = _GPU_PARTS
        wanted = parts * work.batch_size * max(_GPU_BATCHES, one.decoders)
    chosen = np.zeros(listing.rows, bool)
    chosen[:: max(1, listing.rows // wanted)] = True
    sample = listing.only(chosen)
    trial = place / f".trial-{time.time_ns()}"
    shards = np.array_split(np.arange(sample.rows), 2 * one.processes)
    sizes = [len(shard) for shard in shards if len(shard)]
    try:
        with hold(trial, work.storage, lambda line: None) as lease:
            run = create_run(trial, lease, {}, sample, sizes, ending="trial")
            job = Job("scoring", run, work)
            pool.run(job, list(range(len(sizes))), one, say, lambda rows: None)
            tables = [table for _, table in run.read_files(["status", "predicted_at"])]
    finally:
        work.storage.delete_tree(trial)
    # The first part warms up; each of the others is timed from the last row of the one before. The
    # median ignores parts in which GPU kernels are tuned for a new number of batches.
    times = np.sort(np.concatenate([table["predicted_at"].to_numpy() for table in tables]))
    timed = [part for part in np.array_split(times, parts) if len(part)]
    each = np.diff([part[-1] for part in timed]) / np.timedelta64(1, "s")
    seconds = float(np.median(each)) if len(each) else 0.0
    # Fewer images would not keep all processes of a GPU busy.
    enough = seconds > 0 and (not one.decoders or sample.rows >= wanted)
    rate = len(timed[-1]) / seconds * workers.workers if enough else None
    tried = Counter(status for table in tables for status in table["status"].to_pylist())
    return Estimate(listing.rows, tried, rate, workers.workers)
