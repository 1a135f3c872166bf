"""With --log-format json every line that a command prints is a JSON object, whatever happens."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from monkeyray.cli.main import main
from monkeyray.logs import follow_root, log_as_json, to_json
from tests.support.predicted import predict, scored

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


def test_what_other_libraries_say(capfd: pytest.CaptureFixture[str]) -> None:
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
