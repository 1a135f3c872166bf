"""Capture times: from a table instead of EXIF, and instants from camera clocks.

A camera writes local time without a time zone. With one, the time is an instant, except in the
hours that daylight saving time skips or repeats, which are reported and never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import InputError
from monkeyray.images.manifest import as_text
from monkeyray.images.prefixes import find_rule, sample_uris
from monkeyray.images.times import parse_times
from monkeyray.runs.reader import Predictions
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import key, stream_table

#: Why a local time in a zone is not exactly one instant.
NoInstant = Literal["ambiguous_time", "nonexistent_time"]

_FIXED = re.compile(r"(?:UTC|GMT)?([+\-\u2212])(\d{1,2})(?::?([0-5]\d))?")
_CLOCK = re.compile(r"([+\-\u2212]?)(\d+):([0-5]\d)(?::([0-5]\d))?")
_SECONDS = re.compile(r"[+\-]?\d+(\.\d+)?")

#: The possible names of the columns, see `tables.key`; the second is exiftool's.
_FILES, _TIMES = ("uri", "sourcefile"), ("captured_at", "datetimeoriginal")


def parse_zone(text: str) -> tzinfo:
    """A time zone by its IANA name, or a fixed offset from UTC.

    A camera that never switches to daylight saving time has a fixed offset, wherever it is. Raises
    InputError for anything else.

    >>> parse_zone("+02:00").utcoffset(None)
    datetime.timedelta(seconds=7200)
    """
    if text.upper() in ("UTC", "Z", "GMT"):
        return UTC
    match = _FIXED.fullmatch(text.upper())
    if match:
        offset = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
        if offset < timedelta(hours=24):
            return timezone(offset if match[1] == "+" else -offset)
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        if not available_timezones():
            raise InputError(
                f"unknown time zone {text!r}, because this machine has no time zone data: install "
                "the package tzdata"
            ) from None
        raise InputError(
            f"unknown time zone {text!r}: give an IANA name such as Africa/Nairobi, or a UTC "
            "offset such as +03:00"
        ) from None


def parse_clock_offset(text: str) -> timedelta:
    """What to add to a camera's time to correct it: seconds, or [-]hours:minutes[:seconds].

    >>> parse_clock_offset("-1:30"), parse_clock_offset("90")
    (datetime.timedelta(days=-1, seconds=81000), datetime.timedelta(seconds=90))
    """
    match = _CLOCK.fullmatch(text)
    try:
        if match:
            hours, minutes, seconds = (int(part or 0) for part in match.groups()[1:])
            offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
            return -offset if match[1] not in ("", "+") else offset
        if _SECONDS.fullmatch(text):
            return timedelta(seconds=float(text))
    except OverflowError:
        pass
    raise InputError(
        f"unknown clock offset {text!r}: give the seconds to add to the camera's time, such as "
        "-90, or hours:minutes:seconds, such as 1:00:00"
    )


def localise(wall: datetime, zone: tzinfo) -> datetime | NoInstant:
    """A local time without a zone as an instant in `zone`, or the reason why it is not exactly one.

    The two interpretations of PEP 495 differ only around a change of the clocks.
    """
    first = wall.replace(tzinfo=zone, fold=0)
    before, after = first.utcoffset(), first.replace(fold=1).utcoffset()
    if before == after:
        return first
    assert before is not None
    assert after is not None
    return "ambiguous_time" if before > after else "nonexistent_time"


def parse_bound(text: str, zone: tzinfo | None, *, end: bool) -> datetime:
    """The instant at which a period starts or ends: a day or a time in ISO 8601.

    A day begins with its first second and ends with its last. Of a repeated hour, the longer period
    counts; a skipped hour is the one after it. Raises InputError for any other format, and for a
    time without an offset if there is no `zone`.
    """
    try:
        if len(text) == 10:
            day = date.fromisoformat(text)
            wall = datetime(day.year, day.month, day.day, *((23, 59, 59) if end else (0, 0, 0)))
        else:
            wall = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{text!r} is not a time: use ISO 8601, such as 2021-05-31 or 2021-05-31T08:25:00"
        ) from None
    wall = wall.replace(microsecond=0)
    if wall.tzinfo is not None:
        return wall
    if zone is None:
        raise InputError(f"{text!r} has no time zone: fill in the column time_zone")
    try:
        # To UTC and back, which moves a skipped hour to an existing one.
        return wall.replace(tzinfo=zone, fold=int(end)).astimezone(UTC).astimezone(zone)
    except OverflowError:
        raise InputError(f"{text!r} is out of range: correct its year") from None


def stamp(moment: datetime) -> str:
    """An instant in ISO 8601 with its offset and whole seconds.

    >>> stamp(datetime(2021, 5, 31, 8, 25, tzinfo=UTC))
    '2021-05-31T08:25:00+00:00'
    """
    return moment.isoformat(timespec="seconds")


@dataclass(frozen=True)
class GivenTimes:
    """Times by URI. `uris`, `times`: of the table's files, string (n,)."""

    uris: pa.Array
    times: pa.Array

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows with the columns uri and captured_at, which the given times replace."""
        where = pc.index_in(rows["uri"], value_set=self.uris)
        given = self.times.take(where.combine_chunks())
        place = rows.column_names.index("captured_at")
        times = pc.coalesce(given, rows["captured_at"].combine_chunks())
        return rows.set_column(place, "captured_at", times)


def read_given_times(place: Location, storage: Storage, predictions: Predictions) -> GivenTimes:
    """Read a table of capture times; files without a time are left out.

    The files may be named from another folder than in the predictions. Raises InputError for a
    table without the two columns or with values that are not times, and if none of its files is
    among the images.
    """
    called = f"--times {place}"
    files: list[str] = []
    times: list[str] = []
    for table in stream_table(place, storage, "--times"):
        names = [_column(table.column_names, which, called) for which in (_FILES, _TIMES)]
        texts = [as_text(called, table, name) for name in names]
        parsed = parse_times(texts[1], f"the column {names[1]} of {called}")
        for file, time in zip(texts[0].to_pylist(), parsed.to_pylist(), strict=True):
            if file and time:
                files.append(file.strip().replace("\\", "/").removeprefix("./"))
                times.append(time)
    sample = sample_uris(predictions.tables(["uri"]), predictions.rows)
    rule = find_rule(files, sample, "times", f"give {called} with longer paths")
    if rule is None:
        raise InputError(
            f"{called} has times for {len(files)} files, none of which is an image in "
            f"{predictions.uri}: give the table for these images"
        )
    uris = pa.array([rule.uri(file) for file in files], pa.string())
    return GivenTimes(uris, pa.array(times, pa.string()))


def _column(names: Sequence[str], possible: Sequence[str], called: str) -> str:
    for wanted in possible:
        for name in names:
            if key(name) == key(wanted):
                return name
    raise InputError(
        f"{called} has no column {possible[0]}, only {', '.join(names)}: use uri and captured_at, "
        "or the columns that exiftool -csv -DateTimeOriginal writes"
    )
