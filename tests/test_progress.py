"""The lines of a job's log: how often, and what they say."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from monkeyray import progress
from monkeyray.progress import Pace, Reporter


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


def score_for_100_seconds(clock: Clock, reporter: Reporter) -> None:
    """Ten images a second of 1,000, told every second and a while beyond the end."""
    with reporter.bar("scoring") as bar:
        for second in range(1, 106):
            clock.now += 1
            done = min(1000, 10 * second)
            bar(1000, {"ok": done - 3, "missing": 3, "empty": 0})


def test_a_line_every_30_seconds_and_no_bar(
    clock: Clock, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not sys.stderr.isatty()
    score_for_100_seconds(clock, Reporter(quiet=False))
    printed = capfd.readouterr()
    assert printed.err.splitlines() == [
        "scoring: 300 of 1000, 10 images/s, 70 s left, 3 missing",
        "scoring: 600 of 1000, 10 images/s, 40 s left, 3 missing",
        "scoring: 900 of 1000, 10 images/s, 10 s left, 3 missing",
        "scoring: 1000 of 1000, 10 images/s, 0 s left, 3 missing",
    ]
    assert "\r" not in printed.err
    assert printed.out == ""


def test_lines_for_programs(
    clock: Clock, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a terminal too.
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    reporter = Reporter(quiet=False, log_format="json")
    reporter.say("warning: https://h/api?access_token=hunter2 is\naway", tries=2)
    score_for_100_seconds(clock, reporter)
    said, first, *_, last = map(json.loads, capfd.readouterr().err.splitlines())
    assert datetime.fromisoformat(said.pop("time")).utcoffset() == timedelta(0)
    assert said == {
        "level": "warning", "event": "note", "tries": 2,
        "message": "https://h/api?access_token=*** is\naway",
    }  # fmt: skip
    del first["time"]
    assert first == {
        "level": "info", "event": "progress", "task": "scoring", "unit": "images",
        "message": "scoring: 300 of 1000, 10 images/s, 70 s left, 3 missing",
        "done": 300, "total": 1000, "rate": 10.0, "eta_seconds": 70, "elapsed_seconds": 30.0,
        "rows": {"ok": 297, "missing": 3, "empty": 0},
    }  # fmt: skip
    assert (last["done"], last["eta_seconds"], last["elapsed_seconds"]) == (1000, 0, 100.0)


def test_what_stands_still_is_told_too(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=False).bar("scoring") as bar:
        for _ in range(65):
            clock.now += 1
            bar(9, {})
    assert capfd.readouterr().err == "scoring: 0 of 9, 0.0 images/s\n" * 2


@pytest.mark.parametrize("form", ["text", "json"])
def test_quiet_says_nothing(form: str, clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(quiet=True, log_format=form)  # type: ignore[arg-type]
    reporter.say("hello")
    score_for_100_seconds(clock, reporter)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_has_a_bar(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Reporter(quiet=False).bar("scoring") as bar:
        bar(10, {"ok": 4, "missing": 1})
    printed = capfd.readouterr().err
    assert "scoring:  50%" in printed
    assert "missing=1" in printed


def test_the_pace_is_that_of_the_last_minute(clock: Clock) -> None:
    pace = Pace()
    for second in range(1, 301):
        clock.now += 1
        # Four nodes more after 200 s.
        rate = pace.rate(2 * second + 8 * max(0, second - 200))
        if second <= 200:
            assert rate == pytest.approx(2)
    assert rate == pytest.approx(10)
    # A count that begins anew.
    assert pace.rate(0) == 0
