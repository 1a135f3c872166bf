"""Batches of the plan's rows: bytes fetched ahead, pixels decoded, columns filled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array
from monkeyray.errors import (
    DecodeError,
)
from monkeyray.images.boxes import ANIMAL, ELIMINATED, has_boxes, pass_through
from monkeyray.images.decode import Decoded, Limits, decode
from monkeyray.runs.workers.fetch import (
    Fetched,
    Neighbours,
    Refusals,
    fetch,
    fetch_neighbours,
    neighbours,
)
from monkeyray.storage.keys import sha256
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

_AHEAD_BYTES = 256 * 2**20

_GUESSED_BYTES = 4 * 2**20


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
