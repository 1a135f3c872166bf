"""The help: whole, grouped, and on one screen."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.help import EXIT_CODES, help_of, help_of_all, shorten
from monkeyray.options import options_of


@pytest.mark.parametrize("columns", ["80", "200"])
@pytest.mark.parametrize("command", COMMANDS)
def test_it_fits_a_screen(command: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
