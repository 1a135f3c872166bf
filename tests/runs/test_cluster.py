"""The workers that a cluster has room for, and what a connection leaves of the caller's process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from monkeyray.errors import ClusterError, ConfigError
from monkeyray.runs import cluster
from monkeyray.runs.cluster import (
    Capacity,
    WorkerCount,
    _short_folder,
    choose_worker_count,
    usable_cores,
    wait_for_workers,
)


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch) -> list[Capacity]:
    """What the cluster has, which a test may replace."""
    has = [Capacity(4, 0, 4, 0, 1)]
    monkeypatch.setattr(cluster, "capacity", lambda: has[0])
    return has


def test_cores_are_those_that_a_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {3, 5})
    assert usable_cores() == 2


@pytest.mark.parametrize(
    ("has", "asked", "gpu", "workers"),
    [
        (Capacity(4, 0, 4, 0, 1), None, False, WorkerCount(4)),
        (Capacity(4, 0, 4, 0, 1), 3, False, WorkerCount(3)),
        # As many as there are cores for, 8 a GPU at most.
        (Capacity(16, 1, 16, 1, 1), None, True, WorkerCount(8, 1 / 8)),
        (Capacity(8, 2, 8, 2, 2), None, True, WorkerCount(8, 1 / 4)),
        (Capacity(2, 4, 2, 4, 1), None, True, WorkerCount(4, 1.0)),
        (Capacity(16, 2, 16, 2, 1), 2, True, WorkerCount(2, 1.0)),
        (Capacity(16, 2, 16, 2, 1), 3, True, WorkerCount(3, 1 / 2)),
        # What an autoscaler may add counts for what was asked for.
        (Capacity(8, 0, 64, 4, 1), 32, True, WorkerCount(32, 1 / 8)),
        (Capacity(8, 1, 64, 4, 1), 20, True, WorkerCount(20, 1 / 7)),
    ],
)
def test_workers_share_the_gpus(
    capacity: list[Capacity], has: Capacity, asked: int | None, gpu: bool, workers: WorkerCount
) -> None:
    capacity[:] = [has]
    found = choose_worker_count("workers", asked, gpu)
    assert found == workers
    if gpu:
        # All of them find room, whole workers on each GPU.
        gpus = max(has.gpus, has.max_gpus if asked else 0)
        assert found.workers <= gpus * int(1 / found.gpu + 1e-9)


def test_more_than_can_share_the_gpus_are_refused(capacity: list[Capacity]) -> None:
    capacity[:] = [Capacity(64, 1, 64, 2, 1)]
    with pytest.raises(ClusterError, match="ask for 16 or fewer"):
        choose_worker_count("workers", 17, True)
    capacity[:] = [Capacity(64, 0, 64, 0, 1)]
    with pytest.raises(ClusterError, match="no GPUs"):
        choose_worker_count("workers", None, True)


def test_what_is_not_there_yet_is_waited_for(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.util import placement_group, remove_placement_group

    assert cluster._WAIT_LINE_SECONDS == 30
    monkeypatch.setattr(cluster, "_WAIT_LINE_SECONDS", 0.1)
    lines: list[str] = []
    cpus = cluster.capacity().cpus
    others = placement_group([{"CPU": cpus}])
    assert others.wait(30)

    def say(message: str, event: str = "note", **fields: Any) -> None:
        lines.append(message)
        assert (event, fields["waiting_for"], fields["workers"]) == ("waiting", "CPU", 1)
        if len(lines) == 2:
            remove_placement_group(others)  # now there is room

    wait_for_workers(1, 0, say)
    assert lines[0].startswith("waiting for room for 1 workers, 0 CPUs are free (0 s so far)")
    assert len(lines) >= 2

    def stop(message: str, event: str = "note", **fields: Any) -> None:
        assert message.startswith("waiting for room for 2 workers, 0 GPUs are free")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for_workers(2, 0.5, stop)


CALLER = """
import logging, os, signal, sys
import joblib  # sets a variable
from monkeyray.runs.cluster import connected, quiet_data

def state():
    from ray.data import DataContext
    context = DataContext.get_current()
    return [
        {n: v for n, v in os.environ.items() if n.startswith("RAY_AUTH") or n[:4] != "RAY_"},
        signal.getsignal(signal.SIGTERM),
        [logging.getLogger(name).level for name in ("ray.data", "ray.train", "ray.tune")],
        (context.enable_progress_bars, context.execution_options.preserve_order),
    ]

signal.signal(signal.SIGTERM, print)
before = state()
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
with connected("local"):
    import ray
    assert ray.cluster_resources()["CPU"] == 1
    folder = ray._private.worker._global_node.get_temp_dir_path()
    assert os.path.isdir(folder)
    assert signal.getsignal(signal.SIGTERM) is print
    with quiet_data(preserve_order=True):
        assert state() != before
assert not os.path.exists(folder)
for was, now in zip(before, state(), strict=True):
    assert was == now, (was, now)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs sched_setaffinity")
def test_our_own_ray_takes_what_it_may_and_leaves_nothing(tmp_path: Path) -> None:
    # Under SLURM a temporary folder may have a name too long for a socket's path.
    long, home = tmp_path / ("x" * 60), tmp_path / "home"
    long.mkdir()
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CALLER], capture_output=True, text=True, check=False,
        env={**os.environ, "TMPDIR": str(long), "HOME": str(home)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [*long.iterdir(), *home.iterdir()] == []


def test_without_a_short_folder_there_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", Mock(side_effect=PermissionError))
    with pytest.raises(ConfigError, match="name has at most 26 bytes"), _short_folder():
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "ray://127.0.0.1:10001"])
def test_a_dead_address_is_told_in_seconds(address: str) -> None:
    start = time.monotonic()
    with pytest.raises(ClusterError, match=f"no Ray cluster at {address}: ") as raised:
        cluster._join(address, debug=False)
    assert "--ray-address" in str(raised.value)
    assert time.monotonic() - start < 15


def test_a_cluster_that_needs_a_token_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    refusal = Mock(side_effect=ray.exceptions.AuthenticationError("no token"))
    monkeypatch.setattr(ray, "init", refusal)
    monkeypatch.setattr(cluster, "_check_answers", lambda address: None)
    with pytest.raises(ClusterError, match="without its token: set RAY_AUTH_MODE=token, and"):
        cluster._join("127.0.0.1:9", debug=False)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_cluster_that_goes_away_ends_the_job_in_a_line(leaves: bool) -> None:
    code = f"""
import signal, time, ray
from types import SimpleNamespace
from monkeyray.errors import ClusterError, ConfigError
from monkeyray.runs import cluster
ray.get_runtime_context = lambda: SimpleNamespace(gcs_address="127.0.0.1:9")
cluster._LOST_SECONDS, cluster._LEAVE_SECONDS = 0.2, 1
if not {leaves}:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    with cluster._watched():
        time.sleep(60)
except ClusterError as error:
    raise SystemExit(str(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == (1 if leaves else 2)
    assert done.stderr.removeprefix("error: ").startswith(
        "the Ray cluster at 127.0.0.1:9 has gone away: finished files are kept; start it again"
    )
    assert done.stderr.count("\n") == 1
