"""What is printed cannot command a terminal, whatever files and labels are called."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.cli.main import main
from monkeyray.progress import Reporter
from monkeyray.terminal import escape_control, escape_control_line, has_control
from tests.support.predicted import predict, scored

#: Clears the screen, turns the direction of writing, ends a command of an older terminal.
EVIL = "a\x1b[2J\u202egpj\x9c.jpg"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20))
def test_what_is_shown(text: str) -> None:
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


def test_a_terminal_that_lacks_characters(tmp_path: Path) -> None:
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
