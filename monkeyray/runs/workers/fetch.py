"""Bytes of images, with what the store says of those that cannot be read; several members of an
archive with one request."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from monkeyray.console import counted
from monkeyray.errors import (
    ArchivedError,
    ConflictError,
    KeyNameError,
    MemberError,
    NoFileError,
    ObjectError,
    StorageError,
    TooLargeError,
)
from monkeyray.images.decode import Limits
from monkeyray.storage.archives import RANGE_BYTES, Extent, Member, broken_reason, unpack
from monkeyray.storage.backends.protocol import Blob
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: Statuses that blame the image only while other images are readable.
REFUSED = ("missing", "forbidden")

#: Images fetched at the same time, enough to hide the latency of a store.
FETCH_THREADS = 16

#: Bytes between two members of an archive that are read rather than asked for separately.
_GAP_BYTES = 2**16


@dataclass(frozen=True)
class Fetched:
    """An image's bytes, or the status and reason why there are none."""

    data: bytes | None
    version: str | None
    status: str = "ok"
    error: str | None = None


def fetch(
    storage: Storage, uri: str, size_bytes: int | None, limits: Limits, version: str | None = None
) -> Fetched:
    """One image's bytes; a definite answer of the store about this image becomes its status.

    `version`: that of the plan, which may have the image's place in a tar archive, or mark an image
    that its archive lacks, or an archive that is broken.
    Raises StorageError for faults, which are not about the image.
    """
    if (reason := broken_reason(version)) is not None:
        return Fetched(None, version, "unreadable", f"the archive is incomplete: {reason}")
    if size_bytes is not None and size_bytes > limits.max_bytes:
        reason = f"{size_bytes} bytes, the limit is {limits.max_bytes}"
        return Fetched(None, None, "too_large", reason)
    return _outcome(lambda: storage.read(uri, limits.max_bytes, version), limits)


def _outcome(read: Callable[[], Blob], limits: Limits) -> Fetched:
    try:
        blob = read()
    except TooLargeError:
        return Fetched(None, None, "too_large", f"more bytes than the limit, {limits.max_bytes}")
    except NoFileError:
        return Fetched(None, None, "unsupported", "not a regular file: a folder, pipe or device")
    except KeyNameError:
        reason = "its key, with an empty segment, . or .., or a control character, cannot be read"
        return Fetched(None, None, "unsupported", reason)
    except ArchivedError as error:
        return Fetched(None, None, error.kind, "archived in the store: restore it first")
    except MemberError as error:
        return Fetched(None, None, error.kind, error.reason)
    except ObjectError as error:
        # The URI is in its column; the reason names no path.
        return Fetched(None, None, error.kind, f"the store reports it as {error.kind}")
    return Fetched(blob.data, blob.version)


@dataclass(frozen=True)
class Neighbours:
    """Members of an archive, close together, that one request reads: their positions in the plan.

    `start`, `end`: the bytes of the archive, of this `version`.
    """

    archive: Location
    version: str
    start: int
    end: int
    rows: range


def neighbours(
    uris: Sequence[str], sizes: Sequence[int | None], versions: Sequence[str | None], limits: Limits
) -> dict[int, Neighbours]:
    """The plan's members of archives, by the position of each."""
    groups: list[Neighbours] = []
    for row, (uri, size, version) in enumerate(zip(uris, sizes, versions, strict=True)):
        extent, split = Extent.parse(version), Location.of(uri).split_member()
        if extent is None or split is None or (size or 0) > limits.max_bytes:
            continue
        last, end = groups[-1] if groups else None, extent.clamped_end(limits.max_bytes)
        if (
            last is not None
            and (last.archive, last.version) == (split[0], extent.version)
            and last.rows.stop == row
            and last.start <= extent.start <= last.end + _GAP_BYTES
            and end - last.start <= RANGE_BYTES
        ):
            rows = range(last.rows.start, row + 1)
            groups[-1] = replace(last, end=max(last.end, end), rows=rows)
        else:
            groups.append(
                Neighbours(split[0], extent.version, extent.start, end, range(row, row + 1))
            )
    return {row: group for group in groups for row in group.rows}


def fetch_neighbours(
    storage: Storage,
    group: Neighbours,
    plan: Sequence[tuple[str, int | None, str | None]],
    limits: Limits,
) -> list[Fetched]:
    """The bytes of each member of a group. `plan`: URI, size and version of each."""
    try:
        data = storage.read_range(group.archive, group.start, group.end, group.version)
    except (ConflictError, ObjectError):
        # The archive was changed or is gone: each member is looked for where it is now.
        return [fetch(storage, uri, size, limits) for uri, size, _ in plan]

    def member(size: int | None, version: str | None) -> Blob:
        extent = Extent.parse(version)
        assert extent is not None
        part = data[extent.start - group.start : extent.end - group.start]
        return Blob(unpack(part, Member(size or 0, extent), limits.max_bytes), version)

    return [_outcome(functools.partial(member, size, version), limits) for _, size, version in plan]


#: The URI of an image that could be read, and its version, which has its place in an archive.
Readable = tuple[str, str | None]


class Refusals:
    """Watches for consecutive missing or forbidden images.

    After some of them, an image that could be read before is read again: if it is refused too, the
    credentials or the disk are the cause, not the images. At most `limit` may follow each other.
    """

    def __init__(self, storage: Storage, limit: int) -> None:
        self._storage = storage
        self._limit = limit
        self._readable: Readable | None = None
        self._streak = 0
        self._unproven = 0

    def recall(self, readable: Readable | None, unproven: int) -> None:
        """Take over the state of an earlier process: an image that it could read, and how many were
        refused since it last read that again."""
        self._readable = self._readable or readable
        self._unproven += unproven

    def see(self, uri: str, item: Fetched) -> None:
        """Note an image. Raises StorageError if the images are not the cause."""
        if item.status not in REFUSED:
            if item.data is not None:
                self._readable = uri, item.version
            # Refusals stay unproven: images are fetched concurrently, so this one may have been
            # read before the last one was refused.
            self._streak = 0
            return
        self._streak += 1
        self._unproven += 1
        if self._streak >= self._limit:
            raise StorageError(
                f"{self._streak} consecutive images are {item.status}, the last is {uri}: check "
                "the credentials and the path, then run the same command again; if they are right, "
                "raise --max-refused"
            )
        if self._streak >= 8 and self._streak.bit_count() == 1:
            self.prove(item.status)

    def prove(self, status: str = "refused") -> None:
        """Read again an image that could be read before, if some were refused since. Raises
        StorageError if it cannot be read now."""
        if not self._unproven or self._readable is None:
            return
        uri, version = self._readable
        try:
            self._storage.read(uri, version=version)
        except ObjectError as error:
            raise StorageError(
                f"{counted(self._unproven, 'image')} {status}, and {uri}, which could "
                f"be read before, is {error.kind} now: check the credentials and the path, then "
                "run the same command again"
            ) from None
        self._unproven = 0
