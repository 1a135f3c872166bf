"""A Ray of the job's own, and what it leaves of the caller's process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
