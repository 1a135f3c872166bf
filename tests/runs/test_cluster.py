"""What can be known of a cluster: mounts, who may add nodes, and when there is room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monkeyray.errors import ClusterError, ConfigError
from monkeyray.runs import cluster
from monkeyray.runs.cluster import (
    Capacity,
    WorkerCount,
    check_shared,
    choose_worker_count,
    is_network_mount,
    wait_for_workers,
)
from monkeyray.storage.store import Storage

MOUNTS = r"""overlay / overlay rw,relatime 0 0
/dev/sdb1 /data ext4 rw 0 0
server:/export /data/shared nfs4 rw,vers=4.2 0 0
tmpfs /data/shared/scratch tmpfs rw 0 0
//nas/photos /mnt/my\040photos cifs rw 0 0
bucket /mnt/bucket fuse.s3fs rw 0 0
/dev/sdc1 /mnt/usb fuseblk rw 0 0
/dev/sdd1 /mnt/twice ext4 rw 0 0
server:/b /mnt/twice nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        ("/home/me/photos", False),
        ("/data", False),
        ("/data/sharedness", False),
        ("/data/shared", True),
        ("/data/shared/a/b", True),
        ("/data/shared/scratch/a", False),
        ("/mnt/my photos/a.jpg", True),
        ("/mnt/bucket/a", True),
        ("/mnt/usb/a", False),
        ("/mnt/twice/a", True),
    ],
)
def test_the_longest_mount_point_decides(path: str, shared: bool) -> None:
    assert is_network_mount(path, MOUNTS) is shared


def test_without_mounts_nothing_is_shared() -> None:
    assert not is_network_mount("/data", "")
    assert not is_network_mount("/data", "a line\n\n")


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch) -> list[Capacity]:
    """What the cluster has, which a test may replace."""
    has = [Capacity(4, 0, 4, 0, 1)]
    monkeypatch.setattr(cluster, "capacity", lambda: has[0])
    return has


def test_one_machine_shares_with_itself(capacity: list[Capacity], tmp_path: Path) -> None:
    check_shared(Storage(), {"images": str(tmp_path)}, {"model": str(tmp_path / "model")})


@pytest.mark.parametrize("most", [Capacity(4, 0, 64, 0, 1), Capacity(4, 0, 4, 8, 1)])
def test_local_paths_are_refused_where_nodes_may_come(
    capacity: list[Capacity], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: Capacity
) -> None:
    capacity[0] = most
    monkeypatch.setattr(cluster, "_mounts", lambda: "a / ext4 rw 0 0\n")
    store = {"images": "s3://bucket/photos"}
    check_shared(Storage(), store, {"model": "s3://bucket/model"})
    with pytest.raises(ConfigError, match=f"--model {tmp_path} is a local path that not every"):
        check_shared(Storage(), store, {"model": str(tmp_path)})
    monkeypatch.setattr(cluster, "_mounts", lambda: f"a / ext4 rw 0 0\nb {tmp_path} nfs4 rw 0 0\n")
    check_shared(Storage(), {"images": str(tmp_path / "images")}, {"model": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []
    # A link on the shared disk may lead away from it.
    (tmp_path / "link").symlink_to("/usr")
    with pytest.raises(ConfigError, match="--images"):
        check_shared(Storage(), {"images": str(tmp_path / "link")}, {"model": str(tmp_path)})


@pytest.mark.parametrize(
    ("has", "asked", "gpu", "crew"),
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
    capacity: list[Capacity], has: Capacity, asked: int | None, gpu: bool, crew: WorkerCount
) -> None:
    capacity[:] = [has]
    found = choose_worker_count("workers", asked, gpu)
    assert found == crew
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
