"""The options as classes declare them, and the help and reference that are made of them."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.fields import EVERY_COMMAND, options_of
from monkeyray.cli.help import EXIT_CODES, help_of, help_of_all, shorten
from monkeyray.cli.reference import markdown
from monkeyray.exports.options import ExportConfig
from monkeyray.training.options import TrainConfig, TuneConfig


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_text_and_a_heading(command: str) -> None:
    options = options_of(COMMANDS[command])
    names = [each.name for each in options]
    assert len(set(names)) == len(names)
    assert all(each.text.endswith((".", "?")) and each.brief for each in options)
    groups = getattr(COMMANDS[command], "GROUPS", {})
    grouped = {name for names in groups.values() for name in names}
    fields = {each.name for each in dataclasses.fields(COMMANDS[command]) if each.init} - {"store"}
    assert not groups or fields <= grouped, "an option that GROUPS does not list"
    assert {each.name for each in options if each.heading != EVERY_COMMAND} == fields
    assert names[-1] == "debug"


def test_describing_an_option() -> None:
    train = {each.name: each for each in options_of(TrainConfig)}
    assert train["images"].required
    assert (train["images"].flag, train["images"].value) == ("--images", "PLACE")
    assert (train["augment"].flag, train["augment"].shown_default) == ("--[no-]augment", "on")
    assert (train["folds"].shown_default, train["gpu"].shown_default) == ("5", "")
    assert (train["limit"].value, train["gpu"].value) == ("N", "")
    assert train["corrections"].value == "PLACE…"
    assert train["l2"].brief == train["l2"].text.partition(". ")[0]
    tune = {each.name: each for each in options_of(TuneConfig)}
    assert not tune.keys() & {"head", "head_seed"}
    assert (tune["l2_range"].value, tune["heads"].value) == ("N N", "TEXT…")
    assert tune["epochs"] == train["epochs"]
    export = {each.name: each for each in options_of(ExportConfig)}
    assert export["format"].value == "camtrap-dp|megadetector|csv|failures"


def test_the_reference_has_every_option_on_a_line() -> None:
    lines = markdown().splitlines()
    for command, kind in COMMANDS.items():
        assert f"## monkeyray {command}" in lines
        for option in options_of(kind):
            row = next(line for line in lines if line.startswith(f"| `{option.flag}"))
            assert row.replace("\\|", "").count("|") == 4
    assert "as \\*.jpg or" in markdown()
    assert "`below_threshold`" in markdown()


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen(command: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = help_of(command).splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= min(int(columns), 100)
    full = help_of(command, full=True)
    for option in options_of(COMMANDS[command]):
        assert option.flag in "\n".join(lines)
        assert option.text in re.sub(r"\s+", " ", full)


def test_the_first_page_has_commands_and_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = help_of_all()
    assert len(page.splitlines()) <= 50
    assert all(re.search(rf"^  {command} +\w", page, re.MULTILINE) for command in COMMANDS)
    assert all(re.search(rf"^  {code} +\w", page, re.MULTILINE) for code in EXIT_CODES)
    assert all(flag in page for flag in ("--config", "--summary-json", "--s3-endpoint"))


@given(st.text("ab :;,(", max_size=80), st.integers(12, 60))
def test_shortened_texts_fit(text: str, width: int) -> None:
    short = shorten(text, width)
    assert short == text if len(text) <= width else len(short) <= width
