"""The reference of all commands and options in Markdown, for the documentation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.fields import EVERY_COMMAND, Option, options_of, shared_options
from monkeyray.cli.help import EXIT_CODES


def markdown() -> str:
    """One section for each command with its options by heading, then what all commands share."""
    train = {each.name for each in options_of(COMMANDS["train"])}
    lines = []
    for command, kind in COMMANDS.items():
        lines += [f"## monkeyray {command}", "", inspect.cleandoc(kind.__doc__ or ""), ""]
        own = [each for each in options_of(kind) if each.heading != EVERY_COMMAND]
        if command == "tune":
            own = [each for each in own if each.name not in train]
            lines += ["All options of `monkeyray train`, except those searched for, and:", ""]
        for heading in dict.fromkeys(each.heading for each in own):
            lines += _table(heading, [each for each in own if each.heading == heading])
    lines += ["## Every command", "", *_table("option", shared_options())]
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(lines) + "\n"


def _table(title: str, options: list[Option]) -> Iterator[str]:
    yield f"| {title} | | default |\n|---|---|---|"
    for each in options:
        name = "`" + " ".join(filter(None, (each.flag, each.value))).replace("|", "\\|") + "`"
        default = f"`{each.shown_default}`" if each.shown_default else ""
        yield f"| {name} | {_cell(each.text)} | {'required' if each.required else default} |"
    yield ""


def _cell(text: str) -> str:
    # Escape Markdown: columns everywhere; emphasis and tags outside of code.
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [re.sub(r"[*_<]", r"\\\g<0>", part) for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    print(markdown(), end="")
