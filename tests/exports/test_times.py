"""Time zones, wrong clocks, and the hours that daylight saving time skips or repeats."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

import monkeyray.exports.times
from monkeyray.errors import InputError
from monkeyray.exports.times import localise, parse_bound, parse_clock_offset, parse_zone, stamp

BRUSSELS = parse_zone("Europe/Brussels")


@pytest.mark.parametrize(
    ("text", "hours"),
    [("+03:00", 3), ("UTC+3", 3), ("-0530", -5.5), ("utc", 0), ("\u22125", -5), ("GMT", 0)],
)
def test_fixed_zones(text: str, hours: float) -> None:
    assert parse_zone(text).utcoffset(None) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["Europe", "Mars/Base", "+25:00", "../etc/passwd", "3", "\0"])
def test_no_zones(text: str) -> None:
    with pytest.raises(InputError, match="Africa/Nairobi"):
        parse_zone(text)


def test_a_machine_without_zones_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monkeyray.exports.times, "available_timezones", set)
    monkeypatch.setattr(zoneinfo, "TZPATH", ())
    with pytest.raises(InputError, match="tzdata"):
        parse_zone("Nowhere/Land")


@given(st.integers(-(10**7), 10**7))
def test_clock_offsets_in_both_forms(seconds: int) -> None:
    assert parse_clock_offset(str(seconds)) == timedelta(seconds=seconds)
    minutes, rest = divmod(abs(seconds), 60)
    text = f"{'-' if seconds < 0 else ''}{minutes // 60}:{minutes % 60:02}:{rest:02}"
    assert parse_clock_offset(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["1h", "1:60", "nan", "inf", "9" * 30, "1:2:3:4"])
def test_no_clock_offsets(text: str) -> None:
    with pytest.raises(InputError, match="add to the camera's time"):
        parse_clock_offset(text)


@pytest.mark.parametrize(
    ("wall", "expected"),
    [
        ("2021-03-28T01:59:59", "2021-03-28T01:59:59+01:00"),
        ("2021-03-28T02:00:00", "nonexistent_time"),
        ("2021-03-28T02:59:59", "nonexistent_time"),
        ("2021-03-28T03:00:00", "2021-03-28T03:00:00+02:00"),
        ("2021-10-31T01:59:59", "2021-10-31T01:59:59+02:00"),
        ("2021-10-31T02:00:00", "ambiguous_time"),
        ("2021-10-31T02:59:59", "ambiguous_time"),
        ("2021-10-31T03:00:00", "2021-10-31T03:00:00+01:00"),
    ],
)
def test_the_hours_of_summer_time(wall: str, expected: str) -> None:
    found = localise(datetime.fromisoformat(wall), BRUSSELS)
    assert (stamp(found) if isinstance(found, datetime) else found) == expected


@given(
    st.datetimes(datetime(1975, 1, 1), datetime(2035, 1, 1)),
    st.sampled_from(
        ["Europe/Brussels", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kolkata"]
    ),
)
def test_an_instant_survives_a_round_trip_through_local_time(moment: datetime, name: str) -> None:
    """Lord Howe's summer time is half an hour, Sao Paulo's began at midnight."""
    zone = parse_zone(name)
    local = moment.replace(tzinfo=UTC).astimezone(zone)
    found = localise(local.replace(tzinfo=None, fold=0), zone)
    # An instant's local time always exists, and if it is unique, it is that instant.
    assert found == "ambiguous_time" or found == local


def test_bounds() -> None:
    def bound(text: str, *, end: bool = False) -> str:
        return stamp(parse_bound(text, BRUSSELS, end=end))

    assert bound("2021-05-31") == "2021-05-31T00:00:00+02:00"
    assert bound("2021-05-31", end=True) == "2021-05-31T23:59:59+02:00"
    assert bound("2021-12-31 08:25:10.5") == "2021-12-31T08:25:10+01:00"
    assert bound("2021-12-31T08:25:10Z") == "2021-12-31T08:25:10+00:00"
    # A repeated hour belongs to the deployment both times.
    assert bound("2021-10-31T02:30") == "2021-10-31T02:30:00+02:00"
    assert bound("2021-10-31T02:30", end=True) == "2021-10-31T02:30:00+01:00"
    # A skipped hour is the one after it, by the changed clock.
    assert bound("2021-03-28T02:30") == "2021-03-28T03:30:00+02:00"
    for text in ("31/05/2021", "2021-05-31T25:00", "May", "2021-02-30"):
        with pytest.raises(InputError, match="ISO 8601"):
            bound(text)
    with pytest.raises(InputError, match="time_zone"):
        parse_bound("2021-05-31", None, end=False)
    assert parse_bound("2021-05-31T00:00+03:00", None, end=False).tzinfo == timezone(
        timedelta(hours=3)
    )
