"""Rays that MonkeyRay did not start."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.weed import free_port


@contextlib.contextmanager
def short_folder() -> Iterator[str]:
    """A temporary folder with a name that is short enough for Ray's sockets; Rays below it end with
    it."""
    folder = tempfile.mkdtemp(prefix="r-", dir="/tmp")
    try:
        yield folder
    finally:
        kill_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


def kill_below(folder: str) -> None:
    """Kill all processes whose command line names a folder, with SIGKILL, so that none can clean
    up: those of the Rays below it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if folder.encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)


@contextlib.contextmanager
def head_node(
    python: str, environment: dict[str, str], log: Path, port: int, *options: str
) -> Iterator[Callable[[], None]]:
    """A head node with two CPUs below TMPDIR, a short folder; yields a function that kills it."""
    folder = environment["TMPDIR"]
    # --block, because `ray stop` would end other Rays too.
    command = [
        python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2",
        f"--port={port}", f"--dashboard-agent-listen-port={free_port()}", *options,
    ]  # fmt: skip
    with open(log, "wb") as out:
        node = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=out, stderr=out)

    def kill() -> None:
        node.kill()
        kill_below(f"{folder}/ray/")
        node.wait(60)

    try:
        deadline = time.monotonic() + 120
        while "will now block" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield kill
    finally:
        kill()  # a graceful end takes half a minute
