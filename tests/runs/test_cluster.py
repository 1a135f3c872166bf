"""Connecting to a cluster, and what that leaves of the caller's process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest

from monkeyray.errors import ClusterError, ConfigError
from monkeyray.runs import cluster
from monkeyray.runs.cluster import short_folder

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
    with pytest.raises(ConfigError, match="name has at most 26 bytes"), short_folder():
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "ray://127.0.0.1:10001"])
def test_a_dead_address_is_told_in_seconds(address: str) -> None:
    start = time.monotonic()
    with pytest.raises(ClusterError, match=f"no Ray cluster at {address}: ") as raised:
        cluster._join(address, debug=False)
    assert "--ray-address" in str(raised.value)
    assert time.monotonic() - start < 15


def test_a_ray_that_moved_its_internals_is_still_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ray._raylet", "ray._private.services"):
        monkeypatch.setitem(sys.modules, module, None)
    cluster._check_answers("auto")  # which cannot be resolved now
    with pytest.raises(ConnectionRefusedError):
        cluster._check_answers("127.0.0.1:9")
    cluster._read_authentication()
    monkeypatch.setitem(sys.modules, "ray._raylet", ModuleType("_raylet"))
    cluster._read_authentication()


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
