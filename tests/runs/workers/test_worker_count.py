"""The workers that a machine or a cluster has room for."""

from __future__ import annotations

from typing import Any

import pytest

from monkeyray.errors import ClusterError
from monkeyray.runs.workers import worker_count
from monkeyray.runs.workers.worker_count import (
    Capacity,
    WorkerCount,
    choose_worker_count,
    usable_cores,
    wait_for_workers,
)


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch) -> list[Capacity]:
    """What the cluster has, which a test may replace."""
    has = [Capacity(4, 0, 4, 0, 1)]
    monkeypatch.setattr(worker_count, "capacity", lambda: has[0])
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
        # An explicit number may count on what an autoscaler can add.
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


def test_missing_room_is_waited_for(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.util import placement_group, remove_placement_group

    assert worker_count._WAIT_LINE_SECONDS == 30
    monkeypatch.setattr(worker_count, "_WAIT_LINE_SECONDS", 0.1)
    lines: list[str] = []
    cpus = worker_count.capacity().cpus
    others = placement_group([{"CPU": cpus}])
    assert others.wait(30)

    def say(message: str, event: str = "note", **fields: Any) -> None:
        lines.append(message)
        assert (event, fields["waiting_for"], fields["workers"]) == ("waiting", "CPU", 1)
        if len(lines) == 2:
            remove_placement_group(others)  # now there is room

    wait_for_workers(1, 0, say)
    assert lines[0].startswith("waiting for room for 1 worker; free CPUs: 0 (")
    assert len(lines) >= 2

    def stop(message: str, event: str = "note", **fields: Any) -> None:
        assert message.startswith("waiting for room for 2 workers; free GPUs: 0")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for_workers(2, 0.5, stop)
