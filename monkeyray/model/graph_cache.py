"""Graphs of networks, kept on this machine so that the next process need not build them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

#: Graphs that are kept; the one that was used longest ago goes first.
_KEPT = 8
#: The largest base has 100 MB.
_MOST_BYTES = 2**30


def cached_graph(key: str, build: Callable[[], tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """What `build` makes, a graph and its weights, from an earlier call with the same `key` where
    there was one.

    Kept in the user's own cache folder (XDG_CACHE_HOME, else ~/.cache), under a checksum; where it
    cannot be written, is damaged, or is another user's or in a folder that others may write to, it
    is built.
    """
    file = _folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.graph"
    with contextlib.suppress(OSError, ValueError):
        found = _unpack(_read(file))
        file.touch()
        return found
    graph, weights = build()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _is_mine(file.parent.stat()):
            return graph, weights
        new = file.with_suffix(f".{os.getpid()}")
        new.write_bytes(_pack(graph, weights))
        new.replace(file)
        for old in sorted(file.parent.glob("*.graph"), key=lambda path: path.stat().st_mtime)[
            :-_KEPT
        ]:
            old.unlink(missing_ok=True)
    return graph, weights


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        home = Path("/nonexistent")
    return home / "monkeyray" / "graphs"


def _read(file: Path) -> bytes:
    """A file's bytes. Raises OSError or ValueError for what cannot be one of ours: a checksum does
    not say who has written it, and the graph is run."""
    # Neither through a link nor waiting at a pipe.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        info = os.fstat(descriptor)
        mine = _is_mine(info) and _is_mine(file.parent.stat())
        if not mine or not stat.S_ISREG(info.st_mode) or info.st_size > _MOST_BYTES:
            raise ValueError("not one of ours")
        return opened.read()


def _is_mine(info: os.stat_result) -> bool:
    return info.st_uid == os.geteuid() and not info.st_mode & stat.S_IWOTH


def _pack(graph: bytes, weights: bytes) -> bytes:
    body = len(graph).to_bytes(8, "big") + graph + weights
    return hashlib.sha256(body).digest() + body


def _unpack(data: bytes) -> tuple[bytes, bytes]:
    body = data[32:]
    if hashlib.sha256(body).digest() != data[:32]:
        raise ValueError("damaged")
    size = int.from_bytes(body[:8], "big")
    if not 8 <= 8 + size <= len(body):
        raise ValueError("damaged")
    return body[8 : 8 + size], body[8 + size :]
