"""Processes on this machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def processes_below(word: bytes, root: int | None = None) -> list[int]:
    """The descendants of a process (default: this one) whose command line has a word."""
    root = os.getpid() if root is None else root
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid = int(path.parent.name)
            parents[pid] = int(path.read_text().rpartition(")")[2].split()[1])
            if word in (path.parent / "cmdline").read_bytes():
                found.append(pid)

    def is_below(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == root:
                return True
        return False

    return [pid for pid in found if is_below(pid)]
