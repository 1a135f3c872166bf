"""Batches of the plan's rows: bytes fetched ahead, pixels decoded, columns filled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array
from monkeyray.console import counted
from monkeyray.errors import (
    ArchivedError,
    ConflictError,
    DecodeError,
    KeyNameError,
    MemberError,
    NoFileError,
    ObjectError,
    StorageError,
    TooLargeError,
)
from monkeyray.images.boxes import ANIMAL, ELIMINATED, has_boxes, pass_through
from monkeyray.images.decode import Decoded, Limits, decode
from monkeyray.storage.archives import RANGE_BYTES, Extent, Member, broken_reason, unpack
from monkeyray.storage.keys import sha256
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: The columns that every row has of its image.
IMAGE_FIELDS = [
    ("uri", pa.string()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("captured_at", pa.string()),
    ("size_bytes", pa.int64()),
    ("etag_or_mtime", pa.string()),
    ("sha256", pa.string()),
]

#: Bytes and pixel size to a decoded image, or a DecodeError; `decode`, except in tests. In a plan
#: of boxes it also gets a row's `bbox`, or empty `views` if only the header is needed.
Decode = Callable[..., Decoded]

#: Outcomes that are known already, by the position in the plan.
Outcomes = Mapping[int, Decoded | DecodeError]

#: Statuses that blame the image only while other images are readable.
REFUSED = ("missing", "forbidden")

#: Images fetched at the same time, enough to hide the latency of a store.
FETCH_THREADS = 16

_AHEAD_BYTES = 256 * 2**20
_GUESSED_BYTES = 4 * 2**20
#: Bytes between two members of an archive that are read rather than asked for separately.
_GAP_BYTES = 2**16


@dataclass(frozen=True)
class Fetched:
    """An image's bytes, or the status and reason why there are none."""

    data: bytes | None
    version: str | None
    status: str = "ok"
    error: str | None = None


@dataclass(frozen=True)
class Batch:
    """Some rows of the plan, from position `start` on, with what was fetched for each."""

    plan: pa.Table
    fetched: list[Fetched]
    start: int = 0

    def decode(
        self,
        size: int,
        limits: Limits,
        decode: Decode = decode,
        outcomes: Outcomes | None = None,
        opening: Callable[[int | None], None] = lambda position: None,
    ) -> tuple[dict[str, list[Any]], Array, list[int]]:
        """Decode the batch.

        `opening` is called with a position before it is decoded, and with None after the last.
        Returns the columns of IMAGE_FIELDS and `thumbnail`, the pixels of the readable images,
        uint8 (n, views, size, size, 3), and their places in the batch. In a plan with boxes these
        are the crops of animals; of other rows only the header is read.
        """
        columns: dict[str, list[Any]] = {name: [] for name, _ in IMAGE_FIELDS}
        columns["thumbnail"] = []
        pixels, good = [], []
        known = outcomes or {}
        plan = zip(
            self.plan["uri"].to_pylist(),
            self.plan["size_bytes"].to_pylist(),
            self.plan["version"].to_pylist(),
            self.fetched,
            how_to_decode(self.plan),
            categories(self.plan),
            _given_times(self.plan),
            strict=True,
        )
        for place, (uri, planned_size, planned_version, item, how, category, taken) in enumerate(
            plan
        ):
            status, error = item.status, item.error
            image: Decoded | None = None
            if item.data is not None:
                outcome = known.get(self.start + place)
                if outcome is None:
                    opening(self.start + place)
                    outcome = attempt(decode, item.data, size, limits, how)
                if isinstance(outcome, DecodeError):
                    status, error = outcome.kind, outcome.reason
                elif category != ANIMAL:
                    image = outcome
                    status, error = pass_through(category)
                else:
                    image = outcome
                    pixels.append(image.pixels)
                    good.append(place)
                    status, error = image.status, image.error
            row = {
                "uri": uri,
                "status": status,
                "error": error,
                "width": image.width if image else None,
                "height": image.height if image else None,
                "captured_at": taken or (image.captured_at if image else None),
                "size_bytes": planned_size if item.data is None else len(item.data),
                "etag_or_mtime": item.version or planned_version,
                "sha256": None if item.data is None else sha256(item.data),
                "thumbnail": image.thumbnail if image else None,
            }
            for name, value in row.items():
                columns[name].append(value)
        opening(None)
        stack = np.stack(pixels) if pixels else np.empty((0, 1, size, size, 3), np.uint8)
        return columns, stack, good


def categories(plan: pa.Table) -> list[str | None]:
    """What each row's box counts as: its category, or eliminated; animal if there are no boxes."""
    if not has_boxes(plan.column_names):
        return [ANIMAL] * plan.num_rows
    eliminated = pc.less(pc.fill_null(plan["detection_conf"], 0), 0)
    counted = pc.if_else(eliminated, ELIMINATED, plan["detection_category"])
    return counted.to_pylist()  # type: ignore[no-any-return]


def _given_times(plan: pa.Table) -> list[str | None]:
    """The times that a manifest gives, which count before EXIF's."""
    if "captured_at" not in plan.column_names:
        return [None] * plan.num_rows
    return plan["captured_at"].to_pylist()  # type: ignore[no-any-return]


def how_to_decode(plan: pa.Table) -> list[dict[str, Any]]:
    """The decoder's further arguments for each row: the box of an animal, no views for rows that
    are not scored."""
    if not has_boxes(plan.column_names):
        return [{}] * plan.num_rows
    boxes = plan["detection_bbox"].to_pylist()
    return [
        {"bbox": tuple(box)} if category == ANIMAL else {"views": ()}
        for category, box in zip(categories(plan), boxes, strict=True)
    ]


def attempt(
    decode: Decode, data: bytes, size: int, limits: Limits, how: Mapping[str, Any]
) -> Decoded | DecodeError:
    """Decode; a DecodeError is returned."""
    try:
        return decode(data, size, limits, **how)
    except DecodeError as error:
        return error


def fetch(
    storage: Storage, uri: str, size_bytes: int | None, limits: Limits, version: str | None = None
) -> Fetched:
    """One image's bytes; a definite answer of the store about this image becomes its status.

    `version`: that of the plan, which may say that this is a broken archive.
    Raises StorageError for faults, which are not about the image.
    """
    if (reason := broken_reason(version)) is not None:
        return Fetched(None, version, "unreadable", f"the archive is incomplete: {reason}")
    if size_bytes is not None and size_bytes > limits.max_bytes:
        reason = f"{size_bytes} bytes, the limit is {limits.max_bytes}"
        return Fetched(None, None, "too_large", reason)
    try:
        blob = storage.read(uri, limits.max_bytes)
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
    found = []
    for _, size, version in plan:
        extent = Extent.parse(version)
        assert extent is not None
        part = data[extent.start - group.start : extent.end - group.start]
        try:
            bytes_ = unpack(part, Member(size or 0, extent), limits.max_bytes)
            found.append(Fetched(bytes_, version))
        except TooLargeError:
            reason = f"more bytes than the limit, {limits.max_bytes}"
            found.append(Fetched(None, version, "too_large", reason))
        except MemberError as error:
            found.append(Fetched(None, version, error.kind, error.reason))
    return found


class Refusals:
    """Watches for consecutive missing or forbidden images.

    After some of them, an image that could be read before is read again: if it is refused too, the
    credentials or the disk are the cause, not the images. At most `limit` may follow each other.
    """

    def __init__(self, storage: Storage, limit: int) -> None:
        self._storage = storage
        self._limit = limit
        self._readable: str | None = None
        self._streak = 0
        self._unproven = 0

    def recall(self, readable: str | None, unproven: int) -> None:
        """Take over the state of an earlier process: an image that it could read, and how many were
        refused since it last read that again."""
        self._readable = self._readable or readable
        self._unproven += unproven

    def see(self, uri: str, item: Fetched) -> None:
        """Note an image. Raises StorageError if the images are not the cause."""
        if item.status not in REFUSED:
            if item.data is not None:
                self._readable = uri
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
        try:
            self._storage.read(self._readable)
        except ObjectError as error:
            raise StorageError(
                f"{counted(self._unproven, 'image')} {status}, and {self._readable}, which could "
                f"be read before, is {error.kind} now: check the credentials and the path, then "
                "run the same command again"
            ) from None
        self._unproven = 0


def _fetch_some(
    storage: Storage,
    group: Neighbours | None,
    plan: Sequence[tuple[str, int | None, str | None]],
    limits: Limits,
) -> list[Fetched]:
    if group is not None:
        return fetch_neighbours(storage, group, plan, limits)
    return [fetch(storage, uri, size, limits, version) for uri, size, version in plan]


def batches(
    plan: pa.Table,
    storage: Storage,
    limits: Limits,
    *,
    batch_size: int,
    threads: int,
    refusals: Refusals,
    start: int = 0,
) -> Iterator[Batch]:
    """The plan's rows from position `start` on in batches, in order.

    With several `threads`, images are fetched ahead of use, as many as fit into 256 MiB. If some
    were refused, `refusals` proves them before the end.
    """
    uris, sizes = plan["uri"].to_pylist(), plan["size_bytes"].to_pylist()
    versions = plan["version"].to_pylist()
    groups = neighbours(uris, sizes, versions, limits)
    pool = ThreadPoolExecutor(threads)
    try:
        # Of each image what fetches it, which of its results it is, and how many bytes to expect.
        ahead: deque[tuple[Future[list[Fetched]], int, int]] = deque()
        bytes_ahead, following, base, which = 0, start, start, 0
        submitted: Neighbours | None = None
        future: Future[list[Fetched]]
        last: Future[list[Fetched]] | None = None
        for first in range(start, len(uris), batch_size):
            rows = range(first, min(first + batch_size, len(uris)))
            fetched = []
            for row in rows:
                while following < len(uris) and following <= row + batch_size + threads:
                    expected = sizes[following] or _GUESSED_BYTES
                    if ahead and (threads == 1 or bytes_ahead + expected > _AHEAD_BYTES):
                        break
                    group = groups.get(following)
                    if last is not None and uris[following] == uris[following - 1]:
                        expected = 0  # another box of the same image
                    else:
                        if group is None or group is not submitted:
                            part = slice(following, group.rows.stop if group else following + 1)
                            wanted = [*zip(uris[part], sizes[part], versions[part], strict=True)]
                            last = pool.submit(_fetch_some, storage, group, wanted, limits)
                            submitted, base = group, following
                        which = following - base
                    assert last is not None
                    ahead.append((last, which, expected))
                    bytes_ahead += expected
                    following += 1
                future, place, expected = ahead.popleft()
                bytes_ahead -= expected
                fetched.append(future.result()[place])
                if row == start or uris[row] != uris[row - 1]:
                    refusals.see(uris[row], fetched[-1])
            if rows.stop == len(uris):
                refusals.prove()
            yield Batch(plan.slice(first, len(rows)), fetched, first)
    finally:
        # Not waited for: if the store is down, each of them retries for a while.
        pool.shutdown(wait=False, cancel_futures=True)
