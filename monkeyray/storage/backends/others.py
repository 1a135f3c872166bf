"""Any other store that pyarrow or an installed fsspec package opens, such as hdfs://."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from monkeyray.errors import ConfigError, ConflictError, MissingError
from monkeyray.storage.backends.local import local_errors, temporary_file
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

_COPY_BYTES = 2**20


class ArrowStore:
    """See protocol.Store. Conditions on writes find what is there, but do not prevent a race."""

    def read(self, place: Location, max_bytes: int | None) -> Blob:
        filesystem, path = self.filesystem(place)
        with local_errors(place):
            info = filesystem.get_file_info(path)
            check_size(place, info.size or 0, max_bytes)
            with filesystem.open_input_stream(path) as stream:
                return Blob(stream.read(), time_version(info.mtime_ns))

    def stat(self, place: Location) -> Entry:
        info = self._info(place)
        if not info.is_file:
            raise MissingError(f"{place} does not exist")
        return Entry(str(place), info.size, time_version(info.mtime_ns))

    def open(self, place: Location) -> IO[bytes]:
        filesystem, path = self.filesystem(place)
        with local_errors(place):
            return cast(IO[bytes], filesystem.open_input_file(path))

    def get_range(self, place: Location, start: int, end: int, version: str) -> bytes:
        check_version(place, self.stat(place).version, version)
        with self.open(place) as file:
            file.seek(start)
            return file.read(end - start)

    def write(self, place: Location, data: bytes, replacing: str | None) -> str | None:
        filesystem, path = self.filesystem(place)
        with local_errors(place, writing=True):
            info = filesystem.get_file_info(path)
            if replacing == ABSENT and info.is_file:
                raise ConflictError(f"{place} exists already")
            if replacing and time_version(info.mtime_ns) != replacing:
                raise ConflictError(f"{place} was changed by another program")
            with _output(filesystem, path) as stream:
                stream.write(data)
            return time_version(filesystem.get_file_info(path).mtime_ns)

    def stage(self, place: Location) -> Path:
        return temporary_file(place)

    def publish(self, staged: Path, place: Location) -> None:
        filesystem, path = self.filesystem(place)
        with (
            local_errors(place, writing=True),
            open(staged, "rb") as file,
            _output(filesystem, path) as stream,
        ):
            shutil.copyfileobj(file, stream, _COPY_BYTES)

    def delete(self, place: Location) -> None:
        filesystem, path = self.filesystem(place)
        with local_errors(place):
            filesystem.delete_file(path)

    def exists(self, place: Location) -> bool:
        return bool(self._info(place).is_file)

    def list(self, place: Location) -> Iterator[Entry]:
        from pyarrow.fs import FileSelector

        filesystem, path = self.filesystem(place)
        with local_errors(place):
            infos = [filesystem.get_file_info(path)]
            if not infos[0].is_file:
                selector = FileSelector(path, allow_not_found=True, recursive=True)
                infos = filesystem.get_file_info(selector)
        for info in sorted(infos, key=lambda info: str(info.path)):
            if info.is_file:
                # In many file systems, paths lack the host of the URI.
                below = info.path[len(path) :].lstrip("/")
                uri = str(place / below if below else place)
                yield Entry(uri, info.size, time_version(info.mtime_ns))

    def filesystem(self, place: Location) -> tuple[pyarrow.fs.FileSystem, str]:
        import pyarrow
        from pyarrow import fs

        uri = str(place)
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

    def _info(self, place: Location) -> pyarrow.fs.FileInfo:
        filesystem, path = self.filesystem(place)
        with local_errors(place):
            return filesystem.get_file_info(path)


def _output(filesystem: pyarrow.fs.FileSystem, path: str) -> IO[bytes]:
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    return cast(IO[bytes], filesystem.open_output_stream(path))
