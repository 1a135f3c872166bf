"""Arguments to a command and its options, with those of a --config file below them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.config_files import read_options
from monkeyray.errors import ConfigError
from monkeyray.options import options_of
from monkeyray.options_calls import CallConfig
from monkeyray.options_shared import StoreConfig
from monkeyray.redact import has_secret

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Call:
    """A command with its options, and what concerns this call alone."""

    command: str
    config: Any
    call: CallConfig


def check_arguments(arguments: list[str]) -> None:
    """Raise ConfigError for an argument that carries credentials, before anything repeats it."""
    for place, argument in enumerate(arguments):
        if has_secret(argument):
            flags = [re.match(r"--[\w\-]+", each) for each in arguments[place::-1]]
            name = next((found[0] for found in flags if found), "an argument")
            raise ConfigError(
                f"{name} carries credentials, before an @ or in a query: take them out, and give "
                "them through the environment or a role"
            )


def parse(command: str, arguments: list[str], program: str) -> Call:
    """The call of a command that these arguments, without its name, mean.

    `program`: how the command is called, for messages. Raises ConfigError.
    """
    import tyro

    kind = COMMANDS[command]
    used = _used_options(kind, arguments, program)
    file, given = _config_file(arguments), {}
    if file is not None:
        with _in_one_line(program):
            store, _ = tyro.cli(
                StoreConfig, args=arguments, prog=program, config=(tyro.conf.OmitArgPrefixes,),
                return_unknown_args=True, add_help=False,
            )  # fmt: skip
        given = read_options(file, command, store.storage())
    missing = [
        option.flag
        for option in options_of(kind)
        if option.required and option.flag not in used and option.name not in given
    ]
    if missing:
        raise ConfigError(f"missing: {', '.join(missing)}; see {program} --help")
    try:
        with _in_one_line(program):
            parsed = tyro.cli(
                _with_call(kind),
                args=arguments,
                prog=program,
                default=_with_call(kind)(options=_partial(kind, given), call=CallConfig()),
                config=(tyro.conf.OmitArgPrefixes,),
                add_help=False,
            )
    except ConfigError as error:
        if file is None:
            raise
        raise ConfigError(f"{error} (options come from --config {file} too)") from error
    return Call(command, parsed.options, parsed.call)


def _used_options(kind: type[Any], arguments: list[str], program: str) -> set[str]:
    """The options that arguments name. Raises ConfigError for one that there is not."""
    flags = set[str]()
    for option in options_of(kind):
        flag = option.flag.replace("--[no-]", "--")
        flags |= {flag, flag.replace("--", "--no-", 1)} if option.kind is bool else {flag}
    used = set()
    for argument in arguments:
        if re.match("--[A-Za-z]", argument):
            flag = argument.partition("=")[0].replace("_", "-")
            if flag not in flags:
                near = difflib.get_close_matches(flag, sorted(flags), 1)
                hint = f"did you mean {near[0]}?" if near else f"see {program} --help-all"
                raise ConfigError(f"unknown option {flag}: {hint}")
            used.add(flag)
    return used


#: What the parser draws around its words, and the colours that it gives them.
_DRAWN = re.compile(r"\x1b\[[\d;]*m|[\u2500-\u257f]")


@contextlib.contextmanager
def _in_one_line(program: str) -> Iterator[None]:
    """Make a ConfigError of what the parser says before it exits."""
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            yield
    except SystemExit:
        # The first line is a title, and what follows a rule is the option's text.
        drawn = words.getvalue().splitlines()
        lines = [" ".join(_DRAWN.sub(" ", line).split()) for line in drawn]
        said = " ".join(itertools.takewhile(bool, lines[1:]))
        raise ConfigError(f"{said}: see {program} --help") from None


def _config_file(arguments: list[str]) -> str | None:
    """The file that --config names; it has to be known before the others are parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", nargs="?")
    known, _ = parser.parse_known_args(arguments)
    return typing.cast("str | None", known.config)


def _with_call(kind: type[Any]) -> type[Any]:
    """A class of a command's options and those of any call, which are parsed together."""
    made = dataclasses.make_dataclass(
        kind.__name__, [("options", kind), ("call", CallConfig)], frozen=True, kw_only=True
    )
    made.__doc__ = kind.__doc__
    return made


def _partial(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """Options with those that are given, for the parser to fill: what is missing may be, and what
    is wrong may be put right on the command line, so that nothing is checked here."""
    import tyro

    made = object.__new__(kind)
    hints = typing.get_type_hints(kind)
    for each in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[each.name]):
            value = _partial(typing.cast(type[Any], hints[each.name]), given)
        elif each.name in given:
            value = given[each.name]
        elif each.default is dataclasses.MISSING:
            value = tyro.MISSING
        else:
            value = each.default
        object.__setattr__(made, each.name, value)
    return made


def completion(arguments: list[str]) -> str:
    """The script that completes commands and options in a shell.

    Raises ConfigError where the shell is none of SHELLS.
    """
    import tyro

    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise ConfigError(f"completion needs the name of a shell: one of {', '.join(SHELLS)}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(
            {command: _in_brief(kind) for command, kind in COMMANDS.items()},
            args=["--tyro-write-completion", arguments[0], "-"],
            prog="monkeyray",
            config=(tyro.conf.OmitArgPrefixes,),
        )
    return printed.getvalue()


def _in_brief(kind: type[Any]) -> type[Any]:
    """A class with the same options, each with a text on one line, as shells want it."""
    import tyro

    made = []
    for each in options_of(kind):
        hint = each.kind | None if each.optional else each.kind
        hint = typing.Annotated[hint, tyro.conf.arg(help=each.brief)]
        made.append((each.name, hint, dataclasses.field(default=each.default)))
    return dataclasses.make_dataclass(kind.__name__, made, kw_only=True)


def find_command(name: str) -> str:
    """The command that an argument names. Raises ConfigError where it names none."""
    if name in COMMANDS:
        return name
    near = difflib.get_close_matches(name, [*COMMANDS, "completion"], 1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"choose one of {', '.join([*COMMANDS, 'completion'])}"
    )
    raise ConfigError(f"unknown command {name!r}: {hint}")
