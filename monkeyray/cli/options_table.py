"""The options of all commands as a Markdown section of the README, between two markers.

python -m monkeyray.cli.options_table README.md

writes the section anew; a test compares it with what the code says.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.help import EXIT_CODES
from monkeyray.options import EVERY_COMMAND, Option, options_of

START = "<!-- options: made by python -m monkeyray.cli.options_table README.md -->"
END = "<!-- end of options -->"


def table() -> str:
    """The section, from marker to marker."""
    parts = [START]
    for command, kind in COMMANDS.items():
        own = [each for each in options_of(kind) if each.heading != EVERY_COMMAND]
        if command == "tune":
            # All but these are options of train, and would say the same again.
            known = {each.name for each in options_of(COMMANDS["train"])}
            own = [each for each in own if each.name not in known]
        title = f"`monkeyray {command}`"
        parts += [_details(title, own)]
    shared = [
        each for each in options_of(next(iter(COMMANDS.values()))) if each.heading == EVERY_COMMAND
    ]
    parts += [_details("Every command", shared), _exit_codes(), END]
    return "\n\n".join(parts)


def _details(title: str, options: list[Option]) -> str:
    rows = [f"| {_flag(each)} | {_cell(each.text)} | {_default(each)} |" for each in options]
    note = ""
    if "tune" in title:
        note = "\n\nand those of `monkeyray train`, without what is searched for."
    return "\n".join(
        [
            f"<details><summary>{title.replace('`', '')}</summary>{note}",
            "",
            "| option | | default |",
            "|---|---|---|",
            *rows,
            "",
            "</details>",
        ]
    )


def _flag(option: Option) -> str:
    return "`" + " ".join(filter(None, (option.flag, option.value))).replace("|", "\\|") + "`"


def _default(option: Option) -> str:
    if option.required:
        return "required"
    return f"`{option.shown_default}`" if option.shown_default else ""


def _cell(text: str) -> str:
    # What Markdown would take for its own: columns, and outside of code emphasis and tags.
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"[*_<]", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


def _exit_codes() -> str:
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| exit code | |", "|---|---|", *rows])


def replaced(text: str) -> str:
    """A README with the section as it should be. Raises ValueError where it has not both markers,
    once each."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in after or END in after:
        raise ValueError(f"the markers {START} and {END} have to be there, once each")
    return f"{before}{table()}{after}"


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(replaced(readme.read_text()))
