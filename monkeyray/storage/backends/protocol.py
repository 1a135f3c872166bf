"""The interface of every kind of store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from monkeyray.errors import ConfigError, ConflictError, ObjectError, TooLargeError
from monkeyray.storage.location import Location

if TYPE_CHECKING:
    import pyarrow.fs

#: The version of a file that does not exist: `write` then only creates.
ABSENT = ""


@dataclass(frozen=True)
class Entry:
    """One file of a listing. `version` is the ETag on S3, elsewhere the time of modification."""

    uri: str
    size_bytes: int | None
    version: str | None


@dataclass(frozen=True)
class Blob:
    """A file's bytes, with the version that they have."""

    data: bytes
    version: str | None


class Store(Protocol):
    """One kind of store. Methods try once; Storage retries the FaultErrors that they raise.

    They raise an ObjectError for definite answers about one file, and StorageError for everything
    else.
    """

    def read(self, place: Location, max_bytes: int | None) -> Blob:
        """All bytes of a file. Raises TooLargeError if there are more than `max_bytes`."""

    def stat(self, place: Location) -> Entry:
        """A file's size and version."""

    def open(self, place: Location) -> IO[bytes]:
        """A file to read at any position."""

    def get_range(self, place: Location, start: int, end: int, version: str) -> bytes:
        """A file's bytes from `start` to before `end`. Raises ConflictError if it has another
        version."""

    def write(self, place: Location, data: bytes, replacing: str | None) -> str | None:
        """Publish a file whole and return its version.

        `replacing`: the version that it must replace, ABSENT to only create it, None for any.
        Raises ConflictError if the store has another version.
        """

    def stage(self, place: Location) -> Path:
        """A new empty or absent file on this machine, to write before `publish`."""

    def publish(self, staged: Path, place: Location) -> None:
        """Publish a staged file whole."""

    def delete(self, place: Location) -> None:
        """Delete a file. May raise MissingError."""

    def exists(self, place: Location) -> bool:
        """Whether there is a file, not a folder, of this name."""

    def list(self, place: Location) -> Iterator[Entry]:
        """All files below a folder or prefix in a stable order, or the file itself."""

    def filesystem(self, place: Location) -> tuple[pyarrow.fs.FileSystem, str]:
        """The pyarrow file system for a place, and the path in it."""


def check_key(place: Location) -> None:
    """Raise ConfigError for a bucket where a file in it is needed."""
    if not place.path:
        raise ConfigError(f"{place} is a bucket, not a file: write {place}/path")


def check_version(place: Location, found: str | None, expected: str) -> None:
    """Raise ConflictError if a file has another version than expected, where it has versions."""
    if (found or "") != expected:
        raise ConflictError(f"{place} was changed by another program")


def check_size(place: Location, size_bytes: int, max_bytes: int | None) -> None:
    """Raise TooLargeError if a file has more bytes than the limit."""
    if max_bytes is not None and size_bytes > max_bytes:
        raise TooLargeError(f"{place} has {size_bytes} bytes, the limit is {max_bytes}")


def written_before(store: Store, place: Location, data: bytes) -> str | None:
    """The version of a file that already has these bytes, because an earlier attempt succeeded but
    its response was lost; otherwise None."""
    # The bytes are compared, since an ETag need not be their MD5.
    with contextlib.suppress(ObjectError):
        there = store.read(place, len(data))
        return there.version if there.data == data else None
    return None


def time_version(nanoseconds: int | None) -> str | None:
    """A time of modification, in nanoseconds since 1970, as a version in ISO 8601."""
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
