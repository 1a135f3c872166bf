"""Files that stand for images, and where tests put them."""

from __future__ import annotations

from pathlib import Path

from monkeyray.storage.store import Storage


def touch(root: Path, *names: str) -> None:
    """Files with a byte each, below a folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def upload(storage: Storage, folder: Path, uri: str) -> None:
    """Copy a folder of files below a URI."""
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write(f"{uri}/{path.relative_to(folder)}", path.read_bytes())
