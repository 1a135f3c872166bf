"""A file in an object store, read in ranges."""

from __future__ import annotations

import io
from typing import Any, Protocol, runtime_checkable

from monkeyray.storage.location import Location
from monkeyray.storage.retries import with_retries

#: How much of a file's end is read at once.
_TAIL_BYTES = 2**16


@runtime_checkable
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
    """One version of an object, read in ranges with retries.

    `whole`: its size and version, if they are known; `ahead`: then the bytes of a range at least,
    for reading from the start.
    """

    def __init__(
        self, store: Ranges, place: Location, whole: tuple[int, str] | None = None, ahead: int = 0
    ) -> None:
        self._store, self._place, self._ahead = store, place, ahead
        self._at = 0
        #: The bytes at hand, and where they begin.
        self._held, self._start = b"", 0
        if whole is not None:
            self._size, self._version = whole
            return
        # Parquet is read from the end first, and small files fit into this one request.
        self._held, self._size, self._version = with_retries(
            lambda: store.get_tail(place, _TAIL_BYTES), store.patience_seconds
        )
        self._start = self._size - len(self._held)

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
        if self._ahead and not self._is_held():
            self._held = b""  # two of them need not be in memory
            self._held = self._get(self._at, min(max(end, self._at + self._ahead), self._size))
            self._start = self._at
        if self._is_held():
            data = self._held[self._at - self._start : end - self._start]
        else:
            data = self._get(self._at, end)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _is_held(self) -> bool:
        return self._start <= self._at < self._start + len(self._held)

    def _get(self, start: int, end: int) -> bytes:
        return with_retries(
            lambda: self._store.get_range(self._place, start, end, self._version),
            self._store.patience_seconds,
        )
