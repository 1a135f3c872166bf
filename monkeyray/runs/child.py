"""Child processes that run a module of ours, and die with the thread that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence


def start_child(
    module: str,
    descriptors: Sequence[int],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    quiet: bool,
) -> subprocess.Popen[bytes]:
    """Start a module with this process's id, the descriptors, which it inherits, and the arguments.

    `environment`: all of its variables but PYTHONPATH. `quiet`: whether what it prints is dropped.
    Raises OSError.
    """
    paths = os.pathsep.join(dict.fromkeys(path or os.getcwd() for path in sys.path))  # noqa: PTH109
    # Never to standard output, which holds the job's result.
    said = subprocess.DEVNULL if quiet else 2
    return subprocess.Popen(
        # No imports from the working directory: it may be a checkout of another version, or hold a
        # queue.py.
        [sys.executable, "-P", "-m", module, str(os.getpid()), *map(str, descriptors), *arguments],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        # An interrupt at the terminal is for the job alone, which then kills its children.
        start_new_session=True,
        env={**environment, "PYTHONPATH": paths},
    )


def die_with(parent: int) -> None:
    """Kill this process when the thread that started it ends, even if native code hangs."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
