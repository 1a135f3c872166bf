"""What a camera's clock says, as instants: time zones, clocks that are wrong, and summer time.

A camera writes local time without saying whose. A time zone makes it an instant, but for the hours
that summer time skips or repeats: those are said to be what they are, and never guessed.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from monkeyray.errors import InputError

#: Why a wall time in a zone is no instant.
NoInstant = Literal["ambiguous_time", "nonexistent_time"]

_FIXED = re.compile(r"(?:UTC|GMT)?([+\-\u2212])(\d{1,2})(?::?([0-5]\d))?")
_CLOCK = re.compile(r"([+\-\u2212]?)(\d+):([0-5]\d)(?::([0-5]\d))?")
_SECONDS = re.compile(r"[+\-]?\d+(\.\d+)?")


def parse_zone(text: str) -> tzinfo:
    """A time zone by its IANA name, or a fixed offset from UTC.

    A camera that nobody switches to summer time has a fixed offset, wherever it hangs. Raises
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
                f"the time zone {text!r} is not known, for this machine has no time zones: install "
                "the package tzdata"
            ) from None
        raise InputError(
            f"the time zone {text!r} is not known: write its IANA name, as Africa/Nairobi, or an "
            "offset from UTC, as +03:00"
        ) from None


def parse_clock_offset(text: str) -> timedelta:
    """What is added to a camera's time to make it right: seconds, or [-]hours:minutes[:seconds].

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
        f"the clock offset {text!r} is not known: write the seconds that are to be added to the "
        "camera's time, as -90, or hours:minutes:seconds, as 1:00:00"
    )


def localise(wall: datetime, zone: tzinfo) -> datetime | NoInstant:
    """A wall time, which has no zone, as the instant it is there, or why it is none or two.

    The two readings of PEP 495 agree but for the hours around a change of the clocks.
    """
    first = wall.replace(tzinfo=zone, fold=0)
    before, after = first.utcoffset(), first.replace(fold=1).utcoffset()
    if before == after:
        return first
    assert before is not None
    assert after is not None
    return "ambiguous_time" if before > after else "nonexistent_time"


def parse_bound(text: str, zone: tzinfo | None, *, end: bool) -> datetime:
    """The instant at which something starts or ends: a day, or a time, in ISO 8601.

    A day begins with its first second and ends with its last. Where summer time makes an hour
    twice, the period is the longer one, and an hour that it skips is the one after it. Raises
    InputError for another form, and for a time without an offset where there is no `zone`.
    """
    try:
        if len(text) == 10:
            day = date.fromisoformat(text)
            wall = datetime(day.year, day.month, day.day, *((23, 59, 59) if end else (0, 0, 0)))
        else:
            wall = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{text!r} is no time: write ISO 8601, as 2021-05-31 or 2021-05-31T08:25:00"
        ) from None
    wall = wall.replace(microsecond=0)
    if wall.tzinfo is not None:
        return wall
    if zone is None:
        raise InputError(f"{text!r} has no time zone: fill the column time_zone")
    try:
        # To UTC and back, so that an hour that is skipped gets a name that it has.
        return wall.replace(tzinfo=zone, fold=int(end)).astimezone(UTC).astimezone(zone)
    except OverflowError:
        raise InputError(f"{text!r} is too far off: correct its year") from None


def stamp(moment: datetime) -> str:
    """An instant in ISO 8601 with its offset and whole seconds.

    >>> stamp(datetime(2021, 5, 31, 8, 25, tzinfo=UTC))
    '2021-05-31T08:25:00+00:00'
    """
    return moment.isoformat(timespec="seconds")
