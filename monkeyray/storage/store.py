"""Files by place: one facade, with retries, over local disk, S3 and every other store."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from monkeyray.errors import (
    ConflictError,
    ForbiddenError,
    MissingError,
    ObjectError,
    StorageError,
)
from monkeyray.storage.archives import (
    INDEX_ENDING,
    RANGE_BYTES,
    Extent,
    Index,
    Member,
    absent_version,
    dump_index,
    index_archive,
    is_absent,
    load_index,
    unpack,
)
from monkeyray.storage.backends.clouds import AZURE, GOOGLE, CloudAccess, open_cloud
from monkeyray.storage.backends.http import HttpStore
from monkeyray.storage.backends.local import LocalStore, local_errors
from monkeyray.storage.backends.others import ArrowStore
from monkeyray.storage.backends.protocol import ABSENT, Blob, Entry, Store
from monkeyray.storage.backends.s3 import S3Access, S3Store
from monkeyray.storage.location import Location
from monkeyray.storage.ranges import RangeFile, Ranges
from monkeyray.storage.retries import PATIENCE_SECONDS, START_PATIENCE_SECONDS, with_retries

if TYPE_CHECKING:
    import pyarrow.fs

_MAKING = threading.Lock()
_INDEXING = threading.Lock()

#: Members in the indexes that are kept, of the archives used last; 250 bytes each.
_KEPT_MEMBERS = 3_000_000

#: How many archives this process indexes at the same time, and the semaphore for it.
_INDEXED_HERE = 16
_INDEXING_HERE = threading.BoundedSemaphore(_INDEXED_HERE)

#: A parsed place, or the URI of one.
Place = str | Location

#: Settings to open a store with; just its scheme if it needs no others.
Access = str | S3Access | CloudAccess

T = TypeVar("T")


class Indexer(Protocol):
    """Indexes tar archives elsewhere, up to `at_once` at the same time. Raises as
    `Storage.read_index` does."""

    at_once: int

    def __call__(self, archive: Entry) -> Index: ...


@dataclass(frozen=True)
class Storage:
    """Reads, writes and lists files in any store.

    It holds options only, so it travels to the workers; stores are opened on first use. Each
    process takes credentials from its own environment or role. Transient errors are retried for
    `patience_seconds`, so those that are raised have lasted.

    `s3_endpoint`, `profile`: for the buckets that `endpoints` and `profiles` do not name.
    `anonymous`: prefixes to read without credentials. `index_archives`: whether to write an index
    beside each large tar archive that has none. `indexer`: indexes the large tar archives
    in stores, if not this process.
    """

    s3_endpoint: str | None = None
    profile: str | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    profiles: Mapping[str, str] = field(default_factory=dict)
    anonymous: tuple[Location, ...] = ()
    patience_seconds: float = PATIENCE_SECONDS
    index_archives: bool = False
    indexer: Indexer | None = field(default=None, repr=False, compare=False)
    _stores: dict[Access, Store] = field(default_factory=dict, repr=False, compare=False)
    _indexes: dict[Location, Index] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "indexer": None, "_stores": {}, "_indexes": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def hasty(self) -> Storage:
        """The same with little patience: for the start of a job, where a wrong address is likelier
        than a fault, and for optional work."""
        return replace(
            self, patience_seconds=START_PATIENCE_SECONDS, indexer=None, _stores={}, _indexes={}
        )

    def _at(self, place: Place) -> tuple[Store, Location]:
        place = Location.of(place)
        access = self._access(place)
        if access not in self._stores:
            # Locked, because sixteen threads would open sixteen clients, which takes seconds.
            with _MAKING:
                if access not in self._stores:
                    self._stores[access] = self._open_store(access)
        return self._stores[access], place

    def _access(self, place: Location) -> Access:
        if place.scheme not in ("s3", *AZURE, *GOOGLE):
            return place.scheme
        anonymous = any(place.is_within(prefix) for prefix in self.anonymous)
        if place.scheme != "s3":
            return CloudAccess(place.scheme, place.bucket, anonymous)
        return S3Access(
            self.endpoints.get(place.bucket, self.s3_endpoint),
            self.profiles.get(place.bucket, self.profile),
            anonymous,
        )

    def _open_store(self, access: Access) -> Store:
        if isinstance(access, S3Access):
            return S3Store(access, self.patience_seconds)
        if isinstance(access, CloudAccess):
            return open_cloud(access, self.patience_seconds)
        if access in ("https", "http"):
            return HttpStore(self.patience_seconds)
        return LocalStore() if access == "file" else ArrowStore()

    def _retried(self, operation: Callable[[], T]) -> T:
        return with_retries(operation, self.patience_seconds)

    # -- whole files ---------------------------------------------------------------------------

    def read(self, place: Place, max_bytes: int | None = None, version: str | None = None) -> Blob:
        """All bytes of a file, or of a member of an archive if no file has that very name.

        `version`: that of a row, which has the place of a member of a tar archive, or marks it as
        absent. Without a version, or if the archive has changed, the member is looked for.

        Raises an ObjectError for what the store says of this file (missing, forbidden, more than
        `max_bytes`, not a regular file) or the archive of this member, and StorageError for
        everything else, after retries.
        """
        store, place = self._at(place)
        extent = Extent.parse(version)
        if extent and extent.kind == "t" and (split := place.split_member()):
            with contextlib.suppress(ConflictError, ObjectError):
                found = Member(extent.end - extent.start, extent)
                return self._read_member(split[0], found, max_bytes)
        try:
            return self._retried(lambda: store.read(place, max_bytes))
        except MissingError as missing:
            split = place.split_member()
            if split is None:
                raise
            if is_absent(version) and version == absent_version(self.stat(split[0]).version or ""):
                raise
            with contextlib.suppress(ConflictError, MissingError):
                return self._read_member(*self._member(place, missing), max_bytes)
            self._forget_if_changed(split[0])
            return self._read_member(*self._member(place, missing), max_bytes)

    def _read_member(self, archive: Location, member: Member, max_bytes: int | None) -> Blob:
        where = member.extent
        end = where.clamped_end(max_bytes)
        data = self.read_range(archive, where.start, end, where.version)
        return Blob(unpack(data, member, max_bytes), str(where))

    def read_range(self, place: Place, start: int, end: int, version: str) -> bytes:
        """A file's bytes from `start` to before `end`.

        Raises ConflictError if it has another version now; otherwise as `read` does.
        """
        if start >= end:
            return b""  # an empty member: stores refuse a range without bytes
        store, place = self._at(place)
        return self._retried(lambda: store.get_range(place, start, end, version))

    def stat(self, place: Place) -> Entry:
        """A file's size and version, without its bytes, or those of a member of an archive. Raises
        as `read` does."""
        store, place = self._at(place)
        try:
            return self._retried(lambda: store.stat(place))
        except MissingError as missing:
            _, member = self._member(place, missing)
            return Entry(str(place), member.size_bytes, str(member.extent))

    def index(self, archive: Place) -> Index:
        """What a tar or zip archive holds, as in `indexes`. Raises as `read` does."""
        archive = Location.of(archive)
        found = self.indexes([archive])[archive]
        if isinstance(found, ObjectError):
            raise found
        return found

    def indexes(self, archives: Iterable[Location]) -> dict[Location, Index | ObjectError]:
        """The index of each archive, or the ObjectError for one that cannot be read. Several are
        read at the same time. All of these are kept, and others that were used last. Otherwise
        raises as `read_index` does."""

        def read(archive: Location) -> Index | ObjectError:
            try:
                return self.read_index(Entry(str(archive), None, None))
            except ObjectError as error:
                return error

        wanted, kept = dict.fromkeys(archives), self._indexes
        # Locked, because sixteen threads would read the same index sixteen times.
        with _INDEXING, ThreadPoolExecutor(self.indexed_at_once) as pool:
            missing = [archive for archive in wanted if archive not in kept]
            found = dict(zip(missing, pool.map(read, missing), strict=True))
            found |= {archive: kept.pop(archive) for archive in wanted if archive in kept}
            kept |= {key: index for key, index in found.items() if isinstance(index, Index)}
            members = sum(len(index.names) for index in kept.values())
            while members > _KEPT_MEMBERS and len(kept) > len(wanted):
                members -= len(kept.pop(next(iter(kept))).names)
        return found

    @property
    def indexed_at_once(self) -> int:
        """How many archives to index with `read_index` at the same time."""
        return self.indexer.at_once if self.indexer else _INDEXED_HERE

    def read_index(self, archive: Entry) -> Index:
        """What a tar or zip archive holds, as it was listed, or as it is now if it has changed
        since. The index beside a large tar archive is used if it is of this very version.

        Raises as `read` does, and as `write` does where indexes are to be written.
        """
        if archive.version is None:
            archive = self.stat(archive.uri)
        # Others are fast: only the directory of a zip archive, or the headers of a local tar
        # archive, are read.
        is_long = not Location.of(archive.uri).is_local and _is_large_tar(archive)
        if self.indexer and is_long:
            return self.indexer(archive)
        with _INDEXING_HERE:
            try:
                return self._read_index(archive)
            except ConflictError:
                return self._read_index(self.stat(archive.uri))

    def _read_index(self, archive: Entry) -> Index:
        size, version = archive.size_bytes or 0, archive.version or ""
        is_zip = archive.uri.lower().endswith(".zip")
        has_index = version != "" and _is_large_tar(archive)
        beside, stale = f"{archive.uri}{INDEX_ENDING}", False
        if has_index:
            try:
                return load_index(self.read(beside).data, size, version)
            except ValueError:
                stale = True
            except ObjectError:  # which a store may say of a name that it does not have
                pass
        store, place = self._at(archive.uri)
        file: Any
        if isinstance(store, Ranges) and size and version and not is_zip:
            # Only a header at a time is taken from what is read ahead.
            file = io.BufferedReader(RangeFile(store, place, (size, version), RANGE_BYTES))
        else:
            file = store.open(place)
            if isinstance(file, io.RawIOBase):
                file = io.BufferedReader(file, RANGE_BYTES)
        with file:
            index = index_archive(file, is_zip, version)
        index.stale = stale
        if self.index_archives and has_index:
            try:
                self.write(beside, dump_index(index, size))
            except ObjectError as error:
                # The error is about the index; the archive itself can be read.
                raise StorageError(
                    f"cannot write {beside}: {error}; leave out --index-archives, or allow writing "
                    "beside the archives"
                ) from error
        return index

    def _member(self, place: Location, missing: MissingError) -> tuple[Location, Member]:
        """The archive that has a file which is `missing` as such, and where in it. Raises that
        error if there is none."""
        split = place.split_member()
        member = split and self.index(split[0]).find(split[1])
        if split is None or member is None:
            raise missing
        return split[0], member

    def _forget_if_changed(self, archive: Location) -> None:
        """Drop the kept index of an archive that has another version now. Raises as `stat` does."""
        now = self.stat(archive).version or ""
        with _INDEXING:
            if archive in self._indexes and self._indexes[archive].version != now:
                del self._indexes[archive]

    def open(self, place: Place) -> IO[bytes]:
        """A file to read at any position; of a remote one, only what is read is fetched.

        Raises as `read` does, here and in reading.
        """
        store, place = self._at(place)
        return store.open(place)

    def write(self, place: Place, data: bytes) -> str | None:
        """Publish a file whole or not at all, and return its version.

        Readers see the old file or all of the new one.
        """
        return self._write(place, data, None)

    def create(self, place: Place, data: bytes) -> str | None:
        """Publish a new file whole, and return its version.

        Raises ConflictError if it exists already.
        """
        return self._write(place, data, ABSENT)

    def replace(self, place: Place, data: bytes, version: str | None) -> str | None:
        """Publish a file whole in place of the given version of it, and return its own version.

        Raises ConflictError if there is another version, or none.
        """
        return self._write(place, data, str(version))

    def _write(self, place: Place, data: bytes, replacing: str | None) -> str | None:
        store, place = self._at(place)
        return self._retried(lambda: store.write(place, data, replacing))

    @contextlib.contextmanager
    def writing(self, place: Place) -> Iterator[IO[bytes]]:
        """A file to write incrementally, published as `write` does at the end of the block, and not
        at all if the block raises.

        It is staged on a disk of this machine, so that a broken upload can be retried.
        """
        store, place = self._at(place)
        staged = store.stage(place)
        try:
            try:
                with open(staged, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                with local_errors(place, writing=True):
                    raise
            self._retried(lambda: store.publish(staged, place))
        finally:
            staged.unlink(missing_ok=True)

    def delete(self, place: Place) -> None:
        """Delete a file, if it exists."""
        store, place = self._at(place)
        with contextlib.suppress(MissingError):
            self._retried(lambda: store.delete(place))

    def delete_tree(self, place: Place) -> None:
        """Delete everything below a place, if there is anything."""
        place = Location.of(place)
        if place.is_local:
            with contextlib.suppress(MissingError), local_errors(place):
                shutil.rmtree(place.path)
            return
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda entry: self.delete(entry.uri), list(self.list(place))))

    def exists(self, place: Place) -> bool:
        """Whether there is a file (not a folder) of this name."""
        store, place = self._at(place)
        if self._retried(lambda: store.exists(place)):
            return True
        with contextlib.suppress(MissingError):
            self._member(place, MissingError())
            return True
        return False

    def list(self, place: Place) -> Iterator[Entry]:
        """All files below a folder or prefix, at every depth, streamed in a stable order.

        A place that is itself a file lists just that, and one that does not exist lists nothing.
        Raises StorageError for a missing bucket or wrong credentials.
        """
        store, place = self._at(place)
        yield from store.list(place)

    def check_opens(self, place: Place) -> None:
        """Raise ConfigError if places of this kind cannot be opened."""
        store, place = self._at(place)
        if isinstance(store, ArrowStore):
            store.filesystem(place)

    # -- checks before heavy work --------------------------------------------------------------

    def check_reachable(self, place: Place) -> None:
        """Ask the store for one name, with little patience. Raises StorageError with the reason."""
        with contextlib.suppress(MissingError, ForbiddenError):
            self.hasty().exists(Location.of(place) / ".monkeyray")

    def check_writable(self, place: Place) -> None:
        """Write and delete a small file below a place. Raises StorageError with the reason."""
        self._probe(place, lambda probe: self.write(probe, b""))

    def check_conditions(self, place: Place) -> None:
        """As `check_writable`, and test whether the store honours the conditions of `create` and
        `replace`. Raises StorageError if it does not, with what it did instead."""
        self._probe(place, self._prove_conditions)

    def _probe(self, place: Place, attempt: Callable[[Location], object]) -> None:
        probe = Location.of(place) / f".monkeyray-{uuid.uuid4().hex[:8]}.tmp"
        try:
            attempt(probe)
            self.delete(probe)
        except StorageError as error:
            raise StorageError(f"cannot write to {place}: {error}") from error

    def _prove_conditions(self, probe: Location) -> None:
        def expect(allowed: bool, step: Callable[[], str | None], else_it: str) -> str | None:
            version = None
            try:
                version, done = step(), True
            except ConflictError:
                done = False
            if done == allowed:
                return version
            with contextlib.suppress(StorageError):
                self.delete(probe)
            raise StorageError(
                f"its store {else_it}, so its conditional writes cannot keep two runs apart: write "
                "to another store"
            )

        create, swap = self.create, self.replace
        first = expect(True, lambda: create(probe, b"1"), "refused to create a new file")
        expect(False, lambda: create(probe, b"2"), "created a file that existed (If-None-Match)")
        if first is None:
            return  # a store without versions
        expect(True, lambda: swap(probe, b"3", first), "refused to replace the current version")
        expect(False, lambda: swap(probe, b"4", first), "replaced an old version (If-Match)")

    # -- file systems --------------------------------------------------------------------------

    def arrow(self, place: Place) -> tuple[pyarrow.fs.FileSystem, str]:
        """The pyarrow file system for a place and the path in it. Raises ConfigError if neither
        pyarrow nor fsspec opens it."""
        store, place = self._at(place)
        return store.filesystem(place)


def _is_large_tar(archive: Entry) -> bool:
    """Whether a tar archive may have an index beside it: looking for that of a small one would cost
    as much as reading the archive."""
    return archive.uri.lower().endswith(".tar") and (archive.size_bytes or 0) > RANGE_BYTES
