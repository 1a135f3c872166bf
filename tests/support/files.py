"""Small files that stand for images."""

from __future__ import annotations

from pathlib import Path


def touch(root: Path, *names: str) -> None:
    """Files with a byte each, below a folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
