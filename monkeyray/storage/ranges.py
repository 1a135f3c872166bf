"""A file in an object store, read in ranges."""

from __future__ import annotations

import io
from typing import Any, Protocol

from monkeyray.storage.location import Location
from monkeyray.storage.retries import with_retries

#: How much of a file's end is read at once.
_TAIL_BYTES = 2**16


class Ranges(Protocol):
    """A store from which ranges of objects can be read."""

    @property
    def patience_seconds(self) -> float:
        """How long to retry."""

    def get_tail(self, place: Location, size: int) -> tuple[bytes, int, str]:
        """An object's last `size` bytes or all of them, its whole size in bytes, and its
        version."""

    def get_range(self, place: Location, start: int, end: int, version: str) -> bytes:
        """An object's bytes from `start` to before `end`. Raises ConflictError if its version has
        changed."""


class RangeFile(io.RawIOBase):
    """One version of an object, read in ranges with retries."""

    def __init__(self, store: Ranges, place: Location) -> None:
        self._store, self._place = store, place
        # Parquet is read from the end first, and small files fit into this one request.
        self._tail, self._size, self._version = with_retries(
            lambda: store.get_tail(place, _TAIL_BYTES), store.patience_seconds
        )
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._size)
        if end <= self._at:
            return 0
        tail = self._size - len(self._tail)
        if self._at >= tail:
            data = self._tail[self._at - tail : end - tail]
        else:
            data = self._get(self._at, end)
        view[: len(data)] = data
        self._at = end
        return len(data)

    def _get(self, start: int, end: int) -> bytes:
        return with_retries(
            lambda: self._store.get_range(self._place, start, end, self._version),
            self._store.patience_seconds,
        )
