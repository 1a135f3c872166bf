"""The README's table of options is what the code says."""

from __future__ import annotations

import pytest

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.options_table import END, START, replaced, table
from monkeyray.options import options_of


def test_it_has_every_option_on_a_line() -> None:
    lines = table().splitlines()
    for kind in COMMANDS.values():
        for option in options_of(kind):
            row = next(line for line in lines if line.startswith(f"| `{option.flag}"))
            assert row.replace("\\|", "").count("|") == 4
    assert "as \\*.jpg or" in table()
    assert "`below_threshold`" in table()


@pytest.mark.parametrize("text", ["", START, f"{END}{START}", f"{START}{END}{START}"])
def test_a_readme_without_the_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        replaced(text)
    assert replaced(f"a\n{START}\nold\n{END}\nb") == f"a\n{table()}\nb"
