"""URIs to bytes and back: local disk, S3 and whatever pyarrow or fsspec opens beside them."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from monkeyray.errors import (
    ConfigError,
    ConflictError,
    FaultError,
    ForbiddenError,
    MissingError,
    NoFileError,
    StorageError,
    TooLargeError,
)
from monkeyray.redact import masked_anywhere
from monkeyray.storage.location import bucket_and_key, is_local, join, local_path, local_uri, scheme
from monkeyray.storage.retries import PATIENCE_SECONDS, START_PATIENCE_SECONDS, with_retries
from monkeyray.storage.s3 import S3, endpoint_of, region

if TYPE_CHECKING:
    import pyarrow.fs

#: What a network disk says for a while, after which all may be well.
_PASSING = (
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.ECONNRESET, errno.EAGAIN, errno.ENETUNREACH, errno.ECONNREFUSED,
)  # fmt: skip
#: What a local disk says for certain of one name.
_NO_SUCH = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO,
    errno.EILSEQ,
)  # fmt: skip

_TAIL_BYTES = 2**16
_COPY_BYTES = 2**20
_MAKING = threading.Lock()

T = TypeVar("T")


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


@dataclass(frozen=True)
class Storage:
    """Opens URIs. Holds options only, so it travels to the workers; clients are made on first use.

    Credentials are never part of it: each process takes them from its own environment or role.
    Faults are tried again for a while, so what is raised in the end has stayed.
    """

    s3_endpoint: str | None = None
    s3_anonymous: bool = False
    patience_seconds: float = PATIENCE_SECONDS
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clients": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _patiently(self, operation: Callable[[], T]) -> T:
        return with_retries(operation, self.patience_seconds)

    # -- whole files ---------------------------------------------------------------------------

    def read(self, uri: str, max_bytes: int | None = None) -> Blob:
        """All bytes of a file.

        Raises an ObjectError for what the store says of this file (missing, forbidden, more than
        `max_bytes`, no file at all), and StorageError for everything else, after retries.
        """
        return self._patiently(lambda: self._read(uri, max_bytes))

    def _read(self, uri: str, max_bytes: int | None) -> Blob:
        if is_local(uri):
            with local_errors(uri), _open_local(uri) as file:
                info = os.fstat(file.fileno())
                check_size(uri, info.st_size, max_bytes)
                return Blob(file.read(), _mtime(info.st_mtime_ns))
        if scheme(uri) == "s3":
            return Blob(*self._s3().get(uri, max_bytes))
        filesystem, path = self.arrow(uri)
        with local_errors(uri):
            info = filesystem.get_file_info(path)
            check_size(uri, info.size or 0, max_bytes)
            with filesystem.open_input_stream(path) as stream:
                return Blob(stream.read(), _mtime(info.mtime_ns))

    def stat(self, uri: str) -> Entry:
        """A file's size and version, without its bytes. Raises as `read` does."""
        return self._patiently(lambda: self._stat(uri))

    def _stat(self, uri: str) -> Entry:
        if is_local(uri):
            with local_errors(uri):
                info = os.stat(local_path(uri))  # noqa: PTH116 - the path may be no text
                return Entry(uri, info.st_size, _mtime(info.st_mtime_ns))
        if scheme(uri) == "s3":
            return Entry(uri, *self._s3().head(uri))
        filesystem, path = self.arrow(uri)
        with local_errors(uri):
            info = filesystem.get_file_info(path)
        if not info.is_file:
            raise MissingError(f"{uri} does not exist")
        return Entry(uri, info.size, _mtime(info.mtime_ns))

    def open(self, uri: str) -> IO[bytes]:
        """A file to read at any place; of a remote one, only what is read is fetched.

        Raises as `read` does, here and in reading. pyarrow's own S3 file system gives up after some
        seconds, and what it says then does not tell a fault from an answer.
        """
        if is_local(uri):
            with local_errors(uri):
                return _open_local(uri)
        if scheme(uri) == "s3":
            return cast(IO[bytes], _S3File(self, uri))
        filesystem, path = self.arrow(uri)
        with local_errors(uri):
            return cast(IO[bytes], filesystem.open_input_file(path))

    def write(self, uri: str, data: bytes) -> str | None:
        """Publish a file whole or not at all: readers see the old one, or all of the new one.

        Returns its version.
        """
        return self._patiently(lambda: self._write(uri, data, Path.replace, {}))

    @contextlib.contextmanager
    def writing(self, uri: str) -> Iterator[IO[bytes]]:
        """A file to write bit by bit, published as `write` does at the end of the block, and not at
        all where the block raises.

        Until then it is on a disk of this machine, so that an upload that breaks off can be begun
        again.
        """
        if is_local(uri):
            path = Path(uri)
            with local_errors(uri, writing=True):
                path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _beside(path)
        else:
            with local_errors(uri, writing=True):
                descriptor, name = tempfile.mkstemp(prefix="monkeyray-")
                os.close(descriptor)
            temporary = Path(name)
        try:
            try:
                with open(temporary, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                with local_errors(uri, writing=True):
                    raise
            if is_local(uri):
                with local_errors(uri, writing=True):
                    temporary.replace(path)
            else:
                self._patiently(lambda: self._upload(uri, temporary))
        finally:
            temporary.unlink(missing_ok=True)

    def _upload(self, uri: str, path: Path) -> None:
        with open(path, "rb") as file:
            if scheme(uri) == "s3":
                self._s3().upload(uri, file)
                return
            filesystem, name = self.arrow(uri)
            with local_errors(uri, writing=True):
                filesystem.create_dir(name.rsplit("/", 1)[0], recursive=True)
                with filesystem.open_output_stream(name) as stream:
                    shutil.copyfileobj(file, stream, _COPY_BYTES)

    def create(self, uri: str, data: bytes) -> str | None:
        """Publish a file whole, only where there is none, and return its version.

        Raises ConflictError where there is one.
        """

        def link(temporary: Path, path: Path) -> None:
            try:
                path.hardlink_to(temporary)
            except FileExistsError:
                raise ConflictError(f"{uri} is there already") from None
            except OSError:
                # A file system without hard links has no such call: look, then move.
                if path.exists():
                    raise ConflictError(f"{uri} is there already") from None
                temporary.replace(path)

        return self._patiently(lambda: self._write(uri, data, link, {"IfNoneMatch": "*"}))

    def replace(self, uri: str, data: bytes, version: str | None) -> str | None:
        """Publish a file whole in the place of the given version of it; returns its own version.

        Raises ConflictError where there is another version, or none.
        """

        def swap(temporary: Path, path: Path) -> None:
            if not path.exists() or _mtime(path.stat().st_mtime_ns) != version:
                raise ConflictError(f"{uri} was changed by another program")
            temporary.replace(path)

        return self._patiently(lambda: self._write(uri, data, swap, {"IfMatch": str(version)}))

    def _write(
        self,
        uri: str,
        data: bytes,
        publish: Callable[[Path, Path], Any],
        conditions: dict[str, str],
    ) -> str | None:
        if is_local(uri):
            path = Path(uri)
            temporary = _beside(path)
            with local_errors(uri, writing=True):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with open(temporary, "wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                        version = _mtime(os.fstat(file.fileno()).st_mtime_ns)
                    publish(temporary, path)
                    return version
                finally:
                    temporary.unlink(missing_ok=True)
        elif scheme(uri) == "s3":
            return self._s3().put(uri, data, **conditions)
        else:
            filesystem, name = self.arrow(uri)
            with local_errors(uri, writing=True):
                # Other stores have no conditions here: this finds what is there, not a race.
                there = filesystem.get_file_info(name)
                if "IfNoneMatch" in conditions and there.is_file:
                    raise ConflictError(f"{uri} is there already")
                if conditions.get("IfMatch", _mtime(there.mtime_ns)) != _mtime(there.mtime_ns):
                    raise ConflictError(f"{uri} was changed by another program")
                filesystem.create_dir(name.rsplit("/", 1)[0], recursive=True)
                with filesystem.open_output_stream(name) as stream:
                    stream.write(data)
                return _mtime(filesystem.get_file_info(name).mtime_ns)

    def delete(self, uri: str) -> None:
        """Delete one file; that it is not there is no error."""
        with contextlib.suppress(MissingError):
            self._patiently(lambda: self._delete(uri))

    def _delete(self, uri: str) -> None:
        if is_local(uri):
            with local_errors(uri):
                Path(uri).unlink()
        elif scheme(uri) == "s3":
            self._s3().delete(uri)
        else:
            filesystem, path = self.arrow(uri)
            with local_errors(uri):
                filesystem.delete_file(path)

    def delete_tree(self, uri: str) -> None:
        """Delete everything below a URI; that there is nothing is no error."""
        if is_local(uri):
            with contextlib.suppress(MissingError), local_errors(uri):
                shutil.rmtree(uri)
            return
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda entry: self.delete(entry.uri), list(self.list(uri))))

    def exists(self, uri: str) -> bool:
        """Whether there is a file (not a folder) of this name."""
        return self._patiently(lambda: self._exists(uri))

    def _exists(self, uri: str) -> bool:
        if is_local(uri):
            try:
                with local_errors(uri):
                    return Path(uri).is_file()
            except MissingError:
                return False
        if scheme(uri) == "s3":
            return self._s3().exists(uri)
        filesystem, path = self.arrow(uri)
        with local_errors(uri):
            return bool(filesystem.get_file_info(path).is_file)

    def list(self, uri: str) -> Iterator[Entry]:
        """All files below a folder or prefix, at every depth, streamed, in an order that is stable.

        A URI that is itself a file lists just that. Nothing there lists nothing, but a missing
        bucket and wrong credentials raise StorageError.
        """
        if is_local(uri):
            if self.exists(uri):
                info = Path(uri).stat()
                yield Entry(uri, info.st_size, _mtime(info.st_mtime_ns))
            elif Path(uri).is_dir():
                yield from _walk(uri, set())
        elif scheme(uri) == "s3":
            if bucket_and_key(uri, need_key=False)[1] and self.exists(uri):
                blob = self.read(uri)
                yield Entry(uri, len(blob.data), blob.version)
            else:
                yield from (Entry(*found) for found in self._s3().entries(uri))
        else:
            yield from self._list_arrow(uri)

    def _list_arrow(self, uri: str) -> Iterator[Entry]:
        from pyarrow.fs import FileSelector

        filesystem, path = self.arrow(uri)
        with local_errors(uri):
            if filesystem.get_file_info(path).is_file:
                infos = [filesystem.get_file_info(path)]
            else:
                selector = FileSelector(path, allow_not_found=True, recursive=True)
                infos = filesystem.get_file_info(selector)
        for info in sorted(infos, key=lambda info: str(info.path)):
            if info.is_file:
                name = f"{scheme(uri)}://{info.path.lstrip('/')}"
                yield Entry(name, info.size, _mtime(info.mtime_ns))

    # -- checks before heavy work --------------------------------------------------------------

    def check_reachable(self, uri: str) -> None:
        """Ask the store for one name, with less patience, since at the start a wrong address is
        likelier than a fault. Raises StorageError with the reason."""
        brief = replace(self, patience_seconds=START_PATIENCE_SECONDS, _clients={})
        with contextlib.suppress(MissingError, ForbiddenError):
            brief.exists(join(uri, ".monkeyray"))

    def check_writable(self, uri: str) -> None:
        """Write and delete a small file below a URI. Raises StorageError with the reason."""
        probe = join(uri, f".monkeyray-{uuid.uuid4().hex[:8]}.tmp")
        try:
            self.write(probe, b"")
            self.delete(probe)
        except StorageError as error:
            raise StorageError(f"cannot write to {uri}: {error}") from error

    # -- file systems --------------------------------------------------------------------------

    def arrow(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """The pyarrow file system for a URI and the path in it."""
        import pyarrow
        from pyarrow import fs

        kind = scheme(uri)
        if kind == "file":
            return fs.LocalFileSystem(), uri
        if kind == "s3":
            return self._arrow_s3(uri), uri[len("s3://") :]
        try:
            filesystem, path = fs.FileSystem.from_uri(uri)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            import fsspec

            try:
                opened, path = fsspec.url_to_fs(uri)
            except (ValueError, ImportError) as error:
                raise ConfigError(
                    f"cannot open {uri!r}: {error}; MonkeyRay opens paths, s3://, and what "
                    "pyarrow or an installed fsspec package opens"
                ) from error
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(opened))
        return filesystem, path

    def _arrow_s3(self, uri: str) -> pyarrow.fs.FileSystem:
        from pyarrow import fs

        endpoint, where = endpoint_of(self.s3_endpoint), region()
        if endpoint is None and where is None:
            where = fs.resolve_s3_region(bucket_and_key(uri, need_key=False)[0])
        return fs.S3FileSystem(
            anonymous=self.s3_anonymous,
            region=where,
            endpoint_override=endpoint,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=6),
        )

    def _s3(self) -> S3:
        # Sixteen threads that begin at once would make sixteen, which takes seconds.
        with _MAKING:
            client: S3 | None = self._clients.get("s3")
            if client is None:
                client = S3(endpoint_of(self.s3_endpoint), self.s3_anonymous, self.patience_seconds)
                self._clients["s3"] = client
            return client


class _S3File(io.RawIOBase):
    """One version of an object, of which each read is a request of its own."""

    def __init__(self, storage: Storage, uri: str) -> None:
        self._storage, self._uri = storage, uri
        # The end is where Parquet files are read first, and all of a small one.
        self._tail, self._size, self._etag = storage._patiently(
            lambda: storage._s3().get_tail(uri, _TAIL_BYTES)
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
        return self._storage._patiently(
            lambda: self._storage._s3().get_range(self._uri, start, end, self._etag)
        )


def check_size(uri: str, size_bytes: int, max_bytes: int | None) -> None:
    """Raise TooLargeError where a file has more bytes than may be read."""
    if max_bytes is not None and size_bytes > max_bytes:
        raise TooLargeError(f"{uri} has {size_bytes} bytes, the limit is {max_bytes}")


def _beside(path: Path) -> Path:
    # A temporary name must not match a reader's *.parquet.
    return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.tmp")


def _open_local(uri: str) -> IO[bytes]:
    # Not blocking: a pipe without a writer would be waited for without end.
    descriptor = os.open(local_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NoFileError(f"{uri} is a folder, a pipe or a device, and no file")
    return os.fdopen(descriptor, "rb")


def _mtime(nanoseconds: int | None) -> str | None:
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


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
        else:
            # A dangling link is listed all the same: it becomes a row `missing`.
            try:
                info = child.stat()
                yield Entry(local_uri(child.path), info.st_size, _mtime(info.st_mtime_ns))
            except OSError:
                yield Entry(local_uri(child.path), None, None)


@contextlib.contextmanager
def local_errors(uri: str, *, writing: bool = False) -> Iterator[None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except PermissionError:
        raise ForbiddenError(f"no permission for {uri}: change its mode or the user") from None
    except OSError as error:
        # What other file systems say may have the URL that they asked for, signature and all.
        reason = masked_anywhere(error.strerror or next(iter(str(error).splitlines()), "an error"))
        # fsspec's own errors have no number.
        if not writing and (error.errno in _NO_SUCH or isinstance(error, FileNotFoundError)):
            raise MissingError(f"{uri} does not exist") from None
        if error.errno in _PASSING:
            raise FaultError(f"{uri}: {reason}: run the same command again") from None
        raise StorageError(f"{uri}: {reason}") from None
    except ValueError:  # a null byte in a name
        raise MissingError(f"{uri!r} cannot be the name of a file") from None
