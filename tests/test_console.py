"""What is printed: lines and bars for people, JSON for programs, and nothing that is unsafe."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import unicodedata
import warnings
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray import console
from monkeyray.cli.main import main
from monkeyray.console import (
    Pace,
    Reporter,
    escape_control,
    escape_control_line,
    follow_root,
    has_control,
    log_as_json,
    to_json,
)
from tests.support.predicted import predict, scored


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=made.monotonic))
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


def test_stalled_progress_is_reported_too(clock: Clock, capfd: pytest.CaptureFixture[str]) -> None:
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


JSON = ["--log-format", "json"]


def call(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """A command's exit code and its lines, which all have to be JSON."""
    code = 0
    try:
        main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    printed = capfd.readouterr()
    assert "hunter2" not in printed.out + printed.err
    return code, [json.loads(line) for line in (printed.err + printed.out).splitlines()]


def test_a_command_and_its_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    predict(tmp_path / "predictions", [scored("/x/a.jpg", ("n0", 1.0))], images="/x")
    given = ["export", "--format", "csv", "--predictions", str(tmp_path / "predictions")]
    code, lines = call(capfd, *given, "--output", str(tmp_path / "a.csv"), *JSON)
    assert code == 0
    assert [line["event"] for line in lines] == ["progress", "done"]
    assert lines[0]["done"] == lines[0]["total"] == 1
    assert lines[1]["command"] == "export"
    assert lines[1]["result"]["output"] == str(tmp_path / "a.csv")
    # From the file of options that is beside it; now the output is there.
    code, (error,) = call(capfd, "export", "--config", str(tmp_path / "a.csv.config.toml"))
    assert (code, error["event"], error["level"]) == (2, "error", "error")
    assert (error["kind"], error["exit_code"]) == ("StorageError", 2)
    assert "--overwrite" in error["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "--images", "s3://me:hunter2@bucket", *JSON],
        ["score", "--imges", "a", *JSON],
        ["score", "--images", "a", "--model", "b", "--predictions", "c", "--log-format=json"],
        ["train", "--images", "i", "--model", "m", "--seed", "x", *JSON, "--debug"],
        ["scroe", *JSON],
    ],
)
def test_mistakes(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    code, (line,) = call(capfd, *arguments)
    assert (code, line["event"], line["level"], line["exit_code"]) == (2, "error", "error", 2)
    assert line["message"]
    assert not line["message"].startswith("error")


@pytest.mark.parametrize(
    ("raised", "code", "event"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError("GET https://h/photos?sv=1&sig=hunter2 failed"), 1, "bug"),
    ],
)
def test_other_ends(
    raised: BaseException,
    code: int,
    event: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise raised

    monkeypatch.setattr("monkeyray.cli.main._do", broken)
    ended, (line,) = call(capfd, "demo", *JSON)
    assert (ended, line["exit_code"], line["event"]) == (code, code, event)
    assert ("Traceback" in line.get("traceback", "")) == (code == 1)


def test_messages_of_other_libraries(capfd: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger("a.library")
    library.propagate = False
    library.addHandler(logging.StreamHandler())
    with log_as_json():
        follow_root("a.library")
        library.error("gave %s up", "https://h/?token=hunter2")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["log", "log"]
    assert lines[0]["logger"] == "a.library"
    assert lines[0]["level"] == "error"
    assert lines[0]["message"] == "gave https://h/?token=*** up"
    assert "DeprecationWarning: old" in lines[1]["message"]


def test_a_line_is_a_line() -> None:
    line = to_json("a\nb \udcff ☃", "note", place=Path("/x"))
    assert "\n" not in line
    assert line.isascii()
    assert json.loads(line)["place"] == "/x"


#: Clears the screen, turns the direction of writing, ends a command of an older terminal.
EVIL = "a\x1b[2J\u202egpj\x9c.jpg"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20))
def test_shown_progress(text: str) -> None:
    shown = escape_control(text)
    assert all(unicodedata.category(letter) != "Cs" for letter in shown)
    assert {letter for letter in shown if unicodedata.category(letter) == "Cc"} <= {"\t", "\n"}
    assert "\n" not in escape_control_line(text)
    if text.isprintable():
        assert shown == text
        assert not has_control(text)


def test_names_in_results_errors_and_progress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / EVIL
    predict(place, [scored(f"/x/{EVIL}", (EVIL, 0.75))], images="/x")
    output = str(place) + ".json"
    given = ["export", "--predictions", str(place), "--format", "megadetector", "--output", output]
    main(given)
    for more in ([], ["--relative-to", "/y", "--overwrite"], ["--overwrite", "--debug", EVIL]):
        with pytest.raises(SystemExit):
            main([*given, *more])
    Reporter(quiet=False).say(f"{EVIL}\n")
    printed = "".join(capsys.readouterr())
    assert printed.count("a\\x1b[2J\\u202egpj\\x9c.jpg") >= 5
    assert not set(printed) & {"\x1b", "\x9c", "\u202e"}


def test_an_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--predictions", f"{tmp_path}/a\nerror: b", "--format", "csv",
              "--output", f"{tmp_path}/c"])  # fmt: skip
    assert capsys.readouterr().err.count("\n") == 1


def test_terminal_without_unicode(tmp_path: Path) -> None:
    predict(tmp_path / "æ", [scored("/x/ø.jpg", ("å", 0.75))], images="/x")
    done = subprocess.run(
        [sys.executable, "-m", "monkeyray", "export", "--predictions", str(tmp_path / "æ"),
         "--format", "csv", "--output", str(tmp_path / "æ.csv")],
        capture_output=True, env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)},
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"written to " in done.stdout
    assert b"\\xe6.csv" in done.stdout


CRASH = """
import os, sys
from monkeyray.console import silence_stderr
with silence_stderr():
    os.write(2, b"noise\\n")
with silence_stderr():
    os.write(2, b"the library's last words\\n")
    if sys.argv[1] == "crash":
        os.abort()
    raise ValueError("raised")
"""


@pytest.mark.parametrize(("end", "said"), [("crash", True), ("error", False)])
def test_silence_ends_with_a_crash(end: str, said: bool, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH, end], capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode
    assert ("the library's last words" in done.stderr) == said
    assert ("ValueError: raised" in done.stderr) != said
    assert "noise" not in done.stderr
    assert not list(tmp_path.iterdir())


OVERLAP = """
import os, sys
from contextlib import ExitStack
from monkeyray.console import silence_stderr
first, second = ExitStack(), ExitStack()
first.enter_context(silence_stderr())
second.enter_context(silence_stderr())
first.close()
second.close()
os.write(2, b"heard")
"""


def test_silences_that_overlap_end() -> None:
    done = subprocess.run([sys.executable, "-c", OVERLAP], capture_output=True, check=True)
    assert done.stderr == b"heard"
