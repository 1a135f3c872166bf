"""Actors and tasks: faults under a real Ray; tests/system/test_ray_pool.py has poison and kills."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray.cloudpickle
import ray.exceptions

from monkeyray.console import Reporter
from monkeyray.errors import ClusterError, ConfigError, StorageError
from monkeyray.images.decode import Limits
from monkeyray.runs.cluster import map_in_tasks, run_in_fresh_process
from monkeyray.runs.lease import hold
from monkeyray.runs.workers.pools import RayPool
from monkeyray.runs.workers.worker import Job
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.options import parse_head
from tests.support import shard_jobs
from tests.support.shard_jobs import plan_of, prepare, work

# The actors and their children cannot import this file.
ray.cloudpickle.register_pickle_by_value(shard_jobs)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_a_fault_stops_the_job_with_its_own_error(
    ray_session: None, images: Path, tmp_path: Path
) -> None:
    plan = plan_of(images, {f"{i:04d}.jpg": b"good" + bytes([i]) for i in range(64)})
    for path in list(images.iterdir())[:-1]:
        path.unlink()
    with hold(Location.of(str(tmp_path / "out")), Storage(), print) as lease:
        run = prepare(lease, plan, 16)
        job = Job("scoring", run, work(Limits(max_refused=8)))
        say = Reporter(True).say
        # Another shard may have been begun before the first error arrives.
        with pytest.raises(StorageError, match=r"^\d+ consecutive images are missing, the last is"):
            RayPool().run(job, list(run.pending()), WorkerCount(1), say, lambda rows: None)
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_an_error_without_a_text_is_named(
    ray_session: None, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ray.exceptions.RayError

    monkeypatch.setattr("ray.data.Dataset.iter_batches", fail)
    with hold(Location.of(str(tmp_path / "out")), Storage(), print) as lease:
        job = Job(
            "scoring", prepare(lease, plan_of(images, {"a.jpg": b"good"}), 16), work(Limits())
        )
        with pytest.raises(ClusterError, match=r"^Ray aborted the job \(RayError: \)\. Finished"):
            RayPool().run(job, [0], WorkerCount(1), Reporter(True).say, lambda rows: None)


def test_what_a_task_raises_is_raised_or_given_here(ray_session: None) -> None:
    say = Reporter(True).say
    with pytest.raises(ConfigError, match=r"^unknown head 'wide': write linear"):
        run_in_fresh_process(say, parse_head, "wide")
    found = dict(map_in_tasks(say, lambda item, shared: divmod(item, shared), [7, "x", 9], 2))
    assert (found[0], found[2]) == ((3, 1), (4, 1))
    assert isinstance(found[1], TypeError)
