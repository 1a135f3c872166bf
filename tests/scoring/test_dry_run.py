"""The dry run of a scoring, with simulated workers of known speed."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monkeyray.images.decode import Limits
from monkeyray.runs.plan import collect
from monkeyray.runs.workers.decode_process import Work
from monkeyray.runs.workers.pools import MachinePool
from monkeyray.runs.workers.worker import Job
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.scoring.dry_run import Estimate, estimate
from monkeyray.storage.location import Location
from tests.support.shard_jobs import work


class TimedPool(MachinePool):
    """Simulates a worker. Each process decodes `decoded` images a second and waits for the network,
    which is ready after 20 s and computes `computed` images a second for all processes."""

    def __init__(self, decoded: float, computed: float) -> None:
        super().__init__()
        self._decoded, self._computed = decoded, computed

    def run(
        self, job: Job, shards: list[int], workers: WorkerCount, *_: Any, **__: Any
    ) -> Counter[str]:
        assert workers.workers == 1
        assert isinstance(job.work, Work)
        free, engine = [0.0] * workers.processes, 20.0
        doing: dict[int, tuple[int, int, list[float]]] = {}
        todo = list(shards)
        while todo or doing:
            process = min(range(len(free)), key=lambda p: free[p] if p in doing or todo else 1e9)
            if process not in doing:
                shard = todo.pop(0)
                doing[process] = shard, job.run.plan.sizes[shard], []
            shard, rows, seconds = doing[process]
            size = min(job.work.batch_size, rows - len(seconds))
            engine = max(engine, free[process] + size / self._decoded) + size / self._computed
            free[process] = engine
            seconds += [engine] * size
            if len(seconds) == rows:
                self._publish(job, *doing.pop(process))
        return Counter()

    def _publish(self, job: Job, shard: int, rows: int, seconds: list[float]) -> None:
        start = datetime(2026, 3, 4, tzinfo=UTC)
        plan = job.run.plan.read(shard)
        columns = {
            "uri": plan["uri"],
            "status": pa.array(["ok"] * rows),
            "predicted_at": pa.array(
                [start + timedelta(seconds=each) for each in seconds], pa.timestamp("us", "UTC")
            ),
        }
        job.run.publish(shard, plan, pa.table(columns))


def tried(folder: Path, images: int, pool: TimedPool, workers: WorkerCount) -> Estimate:
    names = pa.array([f"/i/{number:06d}.jpg" for number in range(images)])
    nulls = {"size_bytes": pa.nulls(images, pa.int64()), "version": pa.nulls(images, pa.string())}
    listing = collect([pa.table({"uri": names, **nulls})])
    assert listing is not None
    place = Location.of(str(folder / "out"))
    found = estimate(place, listing, work(Limits()), pool, workers, lambda *said, **fields: None)
    assert not any((folder / "out").iterdir())
    return found


@pytest.mark.parametrize("images", [45, 64, 100_000])
def test_the_rates_of_processes_without_a_gpu_add_up(images: int, tmp_path: Path) -> None:
    pool = TimedPool(decoded=100, computed=300)
    found = tried(tmp_path, images, pool, WorkerCount(4))
    assert found.rate == pytest.approx(4 / (1 / 100 + 1 / 300), rel=1e-4)
    assert min(images, 64) <= found.tried.total() <= 65
    assert (found.images, found.workers) == (images, 4)


@pytest.mark.parametrize(
    ("decoders", "rate"),
    [(2, 2 / (1 / 300 + 1 / 1000)), (16, 1000)],  # decoding is the limit, then the network is
)
def test_processes_that_share_a_gpu_are_tried_together(
    decoders: int, rate: float, tmp_path: Path
) -> None:
    pool = TimedPool(decoded=300, computed=1000)
    found = tried(tmp_path, 100_000, pool, WorkerCount(3, 1.0, decoders))
    assert found.rate == pytest.approx(3 * rate, rel=0.1)


@pytest.mark.parametrize(
    ("images", "workers"), [(1, WorkerCount(2)), (100, WorkerCount(1, 1.0, 16.0))]
)
def test_too_few_images_give_no_rate(images: int, workers: WorkerCount, tmp_path: Path) -> None:
    found = tried(tmp_path, images, TimedPool(300, 1000), workers)
    assert found.rate is None
    assert found.tried == {"ok": images}
