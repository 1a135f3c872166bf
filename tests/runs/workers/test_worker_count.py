"""The workers that a machine or a cluster has room for."""

from __future__ import annotations

import re
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
        (Capacity(4, 0, 4, 0, 1), None, False, WorkerCount(4, grows=True)),
        (Capacity(4, 0, 4, 0, 1), 3, False, WorkerCount(3)),
        # A GPU each, and the cores of its node for each GPU.
        (Capacity(16, 1, 16, 1, 1, 16.0), None, True, WorkerCount(1, 1.0, 16.0, grows=True)),
        (Capacity(20, 2, 20, 2, 3, 4.0), None, True, WorkerCount(2, 1.0, 4.0, grows=True)),
        (Capacity(16, 4, 16, 4, 1, 4.0), 2, True, WorkerCount(2, 1.0, 4.0)),
        # An explicit number may count on what an autoscaler can add.
        (Capacity(0, 0, 64, 4, 1, 16.0), 4, True, WorkerCount(4, 1.0, 16.0)),
    ],
)
def test_there_are_as_many_workers_as_gpus_or_cores(
    capacity: list[Capacity], has: Capacity, asked: int | None, gpu: bool, workers: WorkerCount
) -> None:
    capacity[:] = [has]
    assert choose_worker_count("workers", asked, gpu) == workers


def test_a_worker_with_a_gpu_decodes_in_as_many_processes_as_it_has_cores() -> None:
    assert WorkerCount(4).decoders == 0
    assert WorkerCount(4).processes == 4
    assert WorkerCount(2, 1.0, 7.5).decoders == 7
    assert WorkerCount(2, 1.0, 7.5).processes == 14
    assert WorkerCount(2, 1.0, 0.5).decoders == 1  # more GPUs than cores


def test_the_cores_of_a_gpu_are_those_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[dict[str, Any]] = [
        {"Alive": True, "Resources": {"CPU": 64.0}},
        {"Alive": True, "Resources": {"CPU": 32.0, "GPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}},
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 96.0, "GPU": 2.0})
    started: list[dict[str, float]] = []
    monkeypatch.setattr(worker_count, "_autoscaler_nodes", lambda: ({"CPU": 96, "GPU": 8}, started))
    assert worker_count.capacity() == Capacity(96, 2, 96, 8, 2, 16.0)
    started[:] = [{"CPU": 8, "GPU": 1}, {"CPU": 4}]
    assert worker_count.capacity().gpu_cpus == 8.0


def test_more_gpus_than_there_can_be_are_refused(capacity: list[Capacity]) -> None:
    capacity[:] = [Capacity(64, 1, 64, 2, 1)]
    with pytest.raises(ClusterError, match="ask for 2 or fewer"):
        choose_worker_count("workers", 3, True)
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
        assert (event, fields["workers"], fields["needs"]) == ("waiting", 1, {"CPU": 0.5})
        if len(lines) == 2:
            remove_placement_group(others)  # now there is room

    wait_for_workers(1, 0, say)
    told = "waiting for room for 1 worker with 0.5 CPUs; free on all nodes together: 0 CPUs ("
    assert lines[0].startswith(told)
    assert len(lines) >= 2

    def stop(message: str, event: str = "note", **fields: Any) -> None:
        assert re.match(
            r"waiting for room for 2 workers with 1 GPU and 16 CPUs each; "
            r"free on all nodes together: 0 GPUs and [\d.]+ CPUs? \(",
            message,
        )
        assert fields["needs"] == {"GPU": 1.0, "CPU": 16.0}
        assert fields["free"].keys() == fields["needs"].keys()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wait_for_workers(2, 1.0, stop, 16.0)
