"""The machine's own file system, network mounts included."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from monkeyray.errors import (
    ConflictError,
    FaultError,
    ForbiddenError,
    MissingError,
    NoFileError,
    StorageError,
)
from monkeyray.redact import masked_anywhere
from monkeyray.storage.backends.protocol import (
    ABSENT,
    Blob,
    Entry,
    check_size,
    check_version,
    time_version,
)
from monkeyray.storage.location import Location

if TYPE_CHECKING:
    import pyarrow.fs

#: Transient errors of network disks.
_TRANSIENT = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ECONNRESET, errno.EAGAIN, errno.ENETUNREACH, errno.ECONNREFUSED,
)  # fmt: skip
#: Errors that concern one name only.
_NO_SUCH = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ,
)  # fmt: skip


class LocalStore:
    """See protocol.Store."""

    def read(self, place: Location, max_bytes: int | None) -> Blob:
        with local_errors(place), self._open(place) as file:
            info = os.fstat(file.fileno())
            check_size(place, info.st_size, max_bytes)
            return Blob(file.read(), time_version(info.st_mtime_ns))

    def stat(self, place: Location) -> Entry:
        with local_errors(place):
            info = Path(place.path).stat()
        return Entry(str(place), info.st_size, time_version(info.st_mtime_ns))

    def open(self, place: Location) -> IO[bytes]:
        with local_errors(place):
            return self._open(place)

    def get_range(self, place: Location, start: int, end: int, version: str) -> bytes:
        with local_errors(place), self._open(place) as file:
            info = os.fstat(file.fileno())
            check_version(place, time_version(info.st_mtime_ns), version)
            file.seek(start)
            return file.read(end - start)

    def _open(self, place: Location) -> IO[bytes]:
        # Non-blocking: opening a pipe without a writer would otherwise wait for ever.
        descriptor = os.open(place.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise NoFileError(f"{place} is not a regular file but a folder, pipe or device")
        return os.fdopen(descriptor, "rb")

    def write(self, place: Location, data: bytes, replacing: str | None) -> str | None:
        with local_errors(place, writing=True):
            path, temporary = Path(place.path), self.stage(place)
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    version = time_version(os.fstat(file.fileno()).st_mtime_ns)
                if replacing == ABSENT:
                    _link(temporary, path, place)
                else:
                    if replacing is not None and _version(path) != replacing:
                        raise ConflictError(f"{place} was changed by another program")
                    temporary.replace(path)
                return version
            finally:
                temporary.unlink(missing_ok=True)

    def stage(self, place: Location) -> Path:
        path = Path(place.path)
        with local_errors(place, writing=True):
            path.parent.mkdir(parents=True, exist_ok=True)
        # A temporary name must not match a reader's *.parquet.
        return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.tmp")

    def publish(self, staged: Path, place: Location) -> None:
        with local_errors(place, writing=True):
            staged.replace(place.path)

    def delete(self, place: Location) -> None:
        with local_errors(place):
            Path(place.path).unlink()

    def exists(self, place: Location) -> bool:
        try:
            with local_errors(place):
                return Path(place.path).is_file()
        except MissingError:
            return False

    def list(self, place: Location) -> Iterator[Entry]:
        if self.exists(place):
            yield self.stat(place)
        elif Path(place.path).is_dir():
            yield from _walk(place.path, set())

    def filesystem(self, place: Location) -> tuple[pyarrow.fs.FileSystem, str]:
        from pyarrow import fs

        return fs.LocalFileSystem(), place.path


def _link(temporary: Path, path: Path, place: Location) -> None:
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise ConflictError(f"{place} exists already") from None
    except OSError:
        # Without hard links there is no atomic call: look, then move.
        if path.exists():
            raise ConflictError(f"{place} exists already") from None
        temporary.replace(path)


def _version(path: Path) -> str | None:
    return time_version(path.stat().st_mtime_ns) if path.exists() else None


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    """All files below a folder in sorted order, through links, each real folder once."""
    with local_errors(folder), os.scandir(folder) as scan:
        children = sorted(scan, key=lambda child: child.name)
        info = Path(folder).stat()
    if (info.st_dev, info.st_ino) in seen:
        return
    seen.add((info.st_dev, info.st_ino))
    for child in children:
        folder_like = False
        with contextlib.suppress(OSError):  # a link to itself
            folder_like = child.is_dir()
        if folder_like:
            yield from _walk(child.path, seen)
            continue
        uri = str(Location("file", "", child.path))
        # A dangling link is listed too: it becomes a row with the status `missing`.
        try:
            info = child.stat()
            yield Entry(uri, info.st_size, time_version(info.st_mtime_ns))
        except OSError:
            yield Entry(uri, None, None)


def temporary_file(place: Location) -> Path:
    """A new file in the machine's folder for temporary ones, in which to stage an upload."""
    with local_errors(place, writing=True):
        descriptor, name = tempfile.mkstemp(prefix="monkeyray-")
    os.close(descriptor)
    return Path(name)


@contextlib.contextmanager
def local_errors(place: str | Location, *, writing: bool = False) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except PermissionError:
        raise ForbiddenError(f"no permission for {place}: change its mode or the user") from None
    except OSError as error:
        # The messages of other file systems may hold the URL they asked for, signature and all.
        reason = masked_anywhere(error.strerror or next(iter(str(error).splitlines()), "an error"))
        # fsspec's own errors have no number.
        if not writing and (error.errno in _NO_SUCH or isinstance(error, FileNotFoundError)):
            why = "" if error.errno in (errno.ENOENT, None) else f" ({reason})"
            raise MissingError(f"{place} does not exist{why}") from None
        if error.errno == errno.ENXIO:
            raise NoFileError(f"{place} is not a regular file but a socket or device") from None
        if error.errno in _TRANSIENT:
            raise FaultError(f"{place}: {reason}: run the same command again") from None
        raise StorageError(f"{place}: {reason}") from None
    except ValueError:  # a null byte in a name
        raise MissingError(f"{str(place)!r} cannot be a file name") from None
