"""What a command tells programs, and the options that it writes beside its result."""

from __future__ import annotations

import importlib
import json
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import monkeyray
from monkeyray.cli.commands import COMMANDS, MODULES
from monkeyray.cli.main import main
from monkeyray.console import Result
from monkeyray.scoring.dry_run import Estimate
from monkeyray.scoring.summary import Summary
from monkeyray.storage.store import Storage
from tests.support.predicted import predict, scored

ROWS = [
    scored("/x/A/1/a.jpg", ("n0", 0.75), ("empty", 0.25), captured_at="2021-05-31T08:25:38"),
    {"uri": "/x/A/1/b.jpg", "status": "missing", "error": "gone"},
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    predict(tmp_path / "predictions", ROWS, images="/x")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_result_can_be_told(command: str) -> None:
    job = getattr(importlib.import_module(MODULES[command]), command)
    returned = typing.get_type_hints(job)["return"]
    for kind in typing.get_args(returned) or (returned,):
        assert "--summary-json" in (kind.to_json.__doc__ or ""), f"{kind} does not say its keys"
        # A notebook shows the summary, not all that it is made of.
        assert kind.__repr__ is Result.__repr__


def call(command: str, *arguments: str) -> int:
    try:
        main([command, "--quiet", *arguments])
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ({"missing": 36}, 3),
        ({"missing": 35, "ok": 1}, 0),
        ({"missing": 35, "truncated": 1}, 0),
        ({"blank": 36}, 0),
        ({"undetected": 36}, 3),
    ],
)
def test_exit_code_if_nothing_was_scored(
    statuses: dict[str, int],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    none: Counter[str] = Counter()
    for result in (
        Summary("/out", Counter(statuses), none, none, {}, {}, 36, 0, 1.0),
        Estimate(36, Counter(statuses), None, 1),
    ):
        monkeypatch.setattr(
            importlib.import_module(MODULES["score"]), "score", lambda _, r=result: r
        )
        told = tmp_path / "summary.json"
        given = ["--images", "x", "--model", "y", "--predictions", "z", "--summary-json", str(told)]
        assert call("score", *given) == code
        assert ("SCORED" in capfd.readouterr().out) == (code == 3)
        assert told.exists()


def test_truncated_images_count_as_scored() -> None:
    statuses, labels = Counter(ok=1, truncated=1, missing=1), Counter(fox=2)
    told = str(Summary("/out", statuses, labels, Counter(), {}, {}, 3, 0, 1.0))
    assert "the scored images, by label:\n          2 fox\n" in told


def test_an_export_and_events(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["--predictions", str(place / "predictions")]
    summary = ["--summary-json", str(place / "s" / "summary.json")]
    table = place / "all.csv"
    assert call("export", *given, *summary, "--format", "csv", "--output", str(table)) == 0
    assert "written to" in capfd.readouterr().out
    found: dict[str, Any] = json.loads((place / "s" / "summary.json").read_text())
    assert found.keys() == {
        "schema_version", "command", "monkeyray", "started_at", "seconds", "result",
    }  # fmt: skip
    assert (found["command"], found["monkeyray"]) == ("export", monkeyray.__version__)
    assert found["result"] == {
        "output": str(table), "images": 2, "kinds": {"animal": 1, "not classified": 1},
        "boxes": False, "left_out": {}, "notes": [],
    }  # fmt: skip

    # The options beside it make the same again.
    first = table.read_bytes()
    table.unlink()
    config = ["--config", f"{table}.config.toml"]
    assert call("export", *config, "--summary-json", "-") == 0
    assert table.read_bytes() == first
    printed = capfd.readouterr()
    assert json.loads(printed.out)["result"] == found["result"]
    assert "written to" in printed.err

    # An error leaves no summary that an earlier call wrote.
    assert call("export", *config, *summary) == 2
    assert not (place / "s" / "summary.json").exists()

    events = place / "events"
    assert call(
        "events", *given, "--output", str(events), "--site-pattern", "{camera}/*", *summary
    ) == 0  # fmt: skip
    result = json.loads((place / "s" / "summary.json").read_text())["result"]
    assert (result["rows"], result["events"], sum(result["apart"].values())) == (2, 1, 1)
    assert (place / "events.config.toml").exists()


def test_summary_place_is_checked_first(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["--predictions", str(place / "predictions"), "--format", "csv"]
    given += ["--output", str(place / "out.csv")]
    (place / "file").touch()
    for summary, words in (
        ("out.txt", "--summary-json is 'out.txt': it must be a file that ends in .json, or -"),
        (f"{place}/file/a.json", f"cannot write to {place}/file"),
        ("s3://me:hunter2@bucket/a.json", "contains credentials"),
    ):
        assert call("export", *given, "--summary-json", summary) == 2
        error = capfd.readouterr().err
        assert words in error
        assert "hunter2" not in error
    assert not (place / "out.csv").exists()


def test_summary_is_written_to_a_store(place: Path, s3: Storage) -> None:
    given = ["--predictions", str(place / "predictions"), "--format", "csv"]
    given += ["--output", "s3://photos/e/out.csv", "--summary-json", "s3://photos/e/s.json"]
    assert call("export", *given, "--s3-endpoint", str(s3.s3_endpoint)) == 0
    assert json.loads(s3.read("s3://photos/e/s.json").data)["result"]["images"] == 2
    written = s3.read("s3://photos/e/out.csv.config.toml").data.decode()
    assert 'output = "s3://photos/e/out.csv"' in written
