"""What --help prints: a command's options grouped by purpose, on one screen."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.fields import EVERY_COMMAND, Option, options_of, shared_options
from monkeyray.options import SELDOM

#: The widest lines; longer ones are hard to read.
_COLUMNS = 100
#: The column at which texts begin.
_INDENT = 28

_COMPLETION = "Print a script that completes commands and options in bash, zsh or fish"

HELP_OF_COMPLETION = """usage: monkeyray completion bash|zsh|fish
Print a script that completes commands and options.
  bash  echo 'eval "$(monkeyray completion bash)"' >> ~/.bashrc
  zsh   monkeyray completion zsh > a folder of $fpath/_monkeyray
  fish  monkeyray completion fish > ~/.config/fish/completions/monkeyray.fish"""

EXIT_CODES = {
    0: "done",
    1: "a bug in MonkeyRay: please report it, with the traceback",
    2: "an error that you can fix, explained in one line (--debug adds the traceback)",
    3: "done, but no image could be scored; the summary says why",
    130: "interrupted; run the same command again to resume",
    143: "terminated; run the same command again to resume",
}


def help_of_all() -> str:
    """What `monkeyray --help` prints."""
    columns = _columns()
    lines = [
        "usage: monkeyray COMMAND [OPTIONS]",
        "",
        "Commands (details: monkeyray COMMAND --help)",
    ]
    for command, kind in COMMANDS.items():
        lines += _entry(command, _summary(kind), "", columns, brief=False)
    lines += _entry("completion", _COMPLETION, "", columns, brief=False)
    lines.append(EVERY_COMMAND)
    for option in shared_options():
        lines += _entry(*_named(option, option.brief), columns, brief=True)
    return "\n".join([*lines, "Exit codes", *_exit_codes(columns)])


def help_of(command: str, *, full: bool = False) -> str:
    """What `monkeyray COMMAND --help` prints, or with `full` --help-all: every option's whole
    text."""
    columns = _columns()
    kind = COMMANDS[command]
    options = options_of(kind)
    required = [each for each in options if each.required]
    usage = ["usage: monkeyray", command, *map(_name, required)]
    lines = _wrap(" ".join([*usage, "[OPTIONS]"]), columns, 0)
    lines += textwrap.wrap(inspect.cleandoc(kind.__doc__ or ""), columns)
    for heading in dict.fromkeys(each.heading for each in options):
        group = [each for each in options if each.heading == heading]
        lines.append(heading)
        if not full and heading in (SELDOM, EVERY_COMMAND):
            lines += _wrap(", ".join(_name(each) for each in group), columns, 2)
            continue
        for each in group:
            text = each.text if full else each.brief
            lines += _entry(*_named(each, text), columns, brief=not full)
    if not full:
        lines.append(f"Full texts: monkeyray {command} --help-all. Exit codes: monkeyray --help")
    return "\n".join(lines)


def _columns() -> int:
    return min(shutil.get_terminal_size((_COLUMNS, 50)).columns, _COLUMNS)


def _summary(kind: type) -> str:
    first, _, _ = " ".join((kind.__doc__ or "").split()).partition(". ")
    return first.rstrip(".")


def _name(option: Option) -> str:
    # Lines are not broken at this space.
    return "\N{NO-BREAK SPACE}".join(filter(None, (option.flag, option.value)))


def _named(option: Option, text: str) -> tuple[str, str, str]:
    default = option.shown_default
    return _name(option), text, f" [{default}]" if default else ""


def _entry(name: str, text: str, default: str, columns: int, *, brief: bool) -> Iterator[str]:
    name = f"  {name}".replace("\N{NO-BREAK SPACE}", " ")
    if brief:
        text = shorten(text, columns - max(_INDENT, len(name) + 2) - len(default))
    lines = _wrap(text + default, columns, _INDENT)
    if len(name) + 2 <= _INDENT:
        yield name.ljust(_INDENT) + lines.pop(0).lstrip()
    elif brief:
        yield f"{name}  {lines.pop(0).lstrip()}"
    else:
        yield name
    yield from lines


def shorten(text: str, width: int) -> str:
    """Cut a text to `width` characters, at the end of a phrase if possible.

    >>> shorten("The frozen network: mobilenet, or another", 30)
    'The frozen network …'
    """
    if len(text) <= width:
        return text
    ends = [match.start() for match in re.finditer(r"[:;,] | \(", text[: width - 1])]
    if ends and ends[-1] >= width // 3:
        return f"{text[: ends[-1]]} …"
    return textwrap.shorten(text, max(width, 12), placeholder=" …")


def _wrap(text: str, columns: int, indent: int) -> list[str]:
    space = " " * indent
    lines = textwrap.wrap(
        text, max(columns, indent + 20), initial_indent=space, subsequent_indent=space,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _exit_codes(columns: int) -> Iterator[str]:
    for code, meaning in EXIT_CODES.items():
        yield from _entry(str(code), meaning, "", columns, brief=False)
