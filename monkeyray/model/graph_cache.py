"""Graphs of networks, cached on this machine so that the next process need not build them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

#: Graphs that are kept; the least recently used one goes first.
_KEPT = 8


def cached_graph(key: str, build: Callable[[], tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """What `build` returns, a graph and its weights, from the cache if `key` is there.

    The cache is in the user's cache folder (XDG_CACHE_HOME, else ~/.cache), under a checksum. If it
    is damaged or cannot be written, the graph is built.
    """
    file = _folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.graph"
    with contextlib.suppress(OSError, ValueError):
        found = _unpack(file.read_bytes())
        file.touch()
        return found
    graph, weights = build()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_bytes(_pack(graph, weights))
        new.replace(file)
        files = sorted(file.parent.glob("*.graph"), key=lambda path: path.stat().st_mtime)
        for old in files[:-_KEPT]:
            old.unlink(missing_ok=True)
    return graph, weights


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(cache) if cache else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        home = Path("/nonexistent")
    return home / "monkeyray" / "graphs"


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
