"""The actors: poison and a worker killed from outside, in one run under a real Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import ray.cloudpickle

from monkeyray.console import Reporter
from monkeyray.images.decode import Limits
from monkeyray.runs.lease import hold
from monkeyray.runs.workers.pools import RayPool
from monkeyray.runs.workers.worker import SPENT, Job
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support import shard_jobs
from tests.support.processes import processes_below
from tests.support.shard_jobs import plan_of, prepare, work

# The actors and their children cannot import this file.
ray.cloudpickle.register_pickle_by_value(shard_jobs)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_poison_and_a_kill_from_outside_in_one_run(
    ray_session: None, images: Path, tmp_path: Path
) -> None:
    contents = {f"{i:04d}.jpg": b"slow" + bytes([i % 250]) for i in range(80)}
    contents |= {"0031.jpg": b"crash", "0071.jpg": b"hang"}
    plan = plan_of(images, contents)
    killed: list[int] = []

    def kill() -> None:
        # After the first file is there: an actor once, a child once.
        while not list((tmp_path / "out").glob("*.parquet")):
            time.sleep(0.1)
        for word in (b"MapWorker", b"monkeyray.runs.workers.decode_process"):
            if killed:
                time.sleep(2)  # in which another actor has taken its place
            while not (found := processes_below(word)):
                time.sleep(0.1)
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])

    thread = threading.Thread(target=kill)
    with hold(Location.of(str(tmp_path / "out")), Storage(), print) as lease:
        run = prepare(lease, plan, 16)
        thread.start()
        seen: list[dict[str, int]] = []
        job = Job("scoring", run, work(Limits(decode_seconds=2)))
        say = Reporter(True).say
        spent = RayPool().run(job, list(run.pending()), WorkerCount(2), say, seen.append)
        thread.join()
        assert len(killed) == 2
        assert run.finish(lease)["status"] == Counter(ok=78, crashed=1, timeout=1)
    assert all(spent[name] > 0 for name in SPENT)
    # Decoding is made slow here, and all else does next to nothing.
    assert spent["decode"] > spent["fetch"] + spent["compute"]
    table = pa.concat_tables(table for _, table in run.read_files())
    assert table["uri"].to_pylist() == plan["uri"].to_pylist()
    rows = {Path(row["uri"]).name: row for row in table.to_pylist()}
    assert rows["0031.jpg"]["status"] == "crashed"
    assert rows["0071.jpg"]["status"] == "timeout"
    for name, data in contents.items():
        if rows[name]["status"] == "ok":
            assert rows[name]["seen"] == data[-1]
