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


def test_without_a_short_folder_there_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", Mock(side_effect=PermissionError))
    with pytest.raises(ConfigError, match="name has at most 26 bytes"), short_folder():
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense", "ray://127.0.0.1:10001"])
def test_a_dead_address_fails_in_seconds(address: str) -> None:
    start = time.monotonic()
    with pytest.raises(ClusterError, match=f"no Ray cluster at {address}: ") as raised:
        cluster._join(address, debug=False)
    assert "--ray-address" in str(raised.value)
    assert time.monotonic() - start < 15


def test_changed_ray_internals_do_not_prevent_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ray._raylet", "ray._private.services"):
        monkeypatch.setitem(sys.modules, module, None)
    cluster._check_answers("auto")  # which cannot be resolved now
    with pytest.raises(ConnectionRefusedError):
        cluster._check_answers("127.0.0.1:9")
    assert not cluster._read_authentication()
    monkeypatch.setitem(sys.modules, "ray._raylet", ModuleType("_raylet"))
    assert not cluster._read_authentication()


def test_changed_ray_token_is_reported_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    modes = []
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr("ray.init", lambda **options: modes.append(os.environ["RAY_AUTH_MODE"]))
    # The Ray of other tests may run in this process.
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr(cluster, "_read_authentication", lambda: True)
    assert cluster._start(tmp_path, debug=False)
    monkeypatch.setattr(cluster, "_read_authentication", lambda: False)
    with cluster.connected("local"):
        pass
    assert modes == ["token", "disabled"]
    assert "RAY_AUTH_MODE" not in os.environ
    assert "other users of this machine can connect" in caplog.text


def test_a_cluster_that_needs_a_token_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    refusal = Mock(side_effect=ray.exceptions.AuthenticationError("no token"))
    monkeypatch.setattr(ray, "init", refusal)
    monkeypatch.setattr(cluster, "_check_answers", lambda address: None)
    with pytest.raises(ClusterError, match="without its token: set RAY_AUTH_MODE=token, and"):
        cluster._join("127.0.0.1:9", debug=False)


@pytest.mark.parametrize("leaves", [True, False])
def test_lost_cluster_ends_the_job_with_one_line(leaves: bool) -> None:
    code = f"""
import signal, time, ray
from types import SimpleNamespace
from monkeyray.errors import ClusterError, ConfigError
from monkeyray.runs import cluster
ray.get_runtime_context = lambda: SimpleNamespace(gcs_address="127.0.0.1:9")
cluster._LOST_SECONDS, cluster._LEAVE_SECONDS = 0.2, 1
signal.signal(signal.SIGINT, signal.default_int_handler if {leaves} else signal.SIG_IGN)
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
