"""Times of images as cameras and tables write them, as local time in ISO 8601."""

from __future__ import annotations

import re
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array
from monkeyray.errors import InputError

_TIME = re.compile(
    r"\s*(\d{4})[:\-](\d\d)[:\-](\d\d)[ T]\s*(\d\d?):(\d\d):(\d\d)(?:[.,]\d+)?"
    r"(?:\s*([AP])\.?M)?(?:\s*(Z|[+\-]\d\d:?\d\d)(?!\d))?",
    re.IGNORECASE,
)


def parse_time(text: str) -> str | None:
    """A time in ISO 8601 to the second, with an offset only if it has one; None for other texts.

    >>> parse_time("2019:01:05 07:03:02 PM"), parse_time("2019-01-05T19:03:02.5+0200")
    ('2019-01-05T19:03:02', '2019-01-05T19:03:02+02:00')
    """
    match = _TIME.match(text)
    if match is None:
        return None
    year, month, day, clock_hour, minute, second = match.groups()[:6]
    hour = int(clock_hour)
    half, offset = match[7], (match[8] or "").upper().replace(":", "").replace("Z", "+0000")
    if half and hour <= 12:  # in 24-hour time AM and PM are redundant
        hour = hour % 12 + 12 * (half in "Pp")
    try:
        moment = datetime.fromisoformat(f"{year}-{month}-{day}T{hour:02}:{minute}:{second}")
    except ValueError:
        return None
    return moment.isoformat() + (offset and f"{offset[:3]}:{offset[3:]}")


def parse_times(texts: pa.ChunkedArray, called: str) -> pa.ChunkedArray:
    """A column of times; texts whose only digit is 0, or without digits, are missing.

    Raises InputError for other texts that are not times; `called`: the column in its message.
    """
    times: list[str | None] = []
    for text in texts.to_pylist():
        times.append(parse_time(text) if text else None)
        if times[-1] is None and re.search("[1-9a-zA-Z]", text or ""):
            raise InputError(
                f"{called} has {text!r:.80}, which is not a time: write local times such as "
                "2024-05-31 19:03:02, with an offset such as +02:00 if it is known, or rename the "
                "column"
            )
    return pa.chunked_array([pa.array(times, pa.string())])


def wall_times(captured_at: pa.ChunkedArray) -> tuple[Array, Array]:
    """Local times in ISO 8601 as microseconds since 1970, int64, and a mask of valid ones."""
    wall = pc.utf8_slice_codeunits(captured_at, 0, 19)
    found = pc.strptime(wall, format="%Y-%m-%dT%H:%M:%S", unit="us", error_is_null=True)
    there = pc.is_valid(found).to_numpy()
    return pc.fill_null(found.cast(pa.int64()), 0).to_numpy(), there
