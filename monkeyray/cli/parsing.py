"""Turns arguments, and a --config file below them, into a command's configuration."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.config_files import read_options
from monkeyray.cli.fields import Option, options_of, shared_options
from monkeyray.errors import ConfigError
from monkeyray.options import CallConfig, StoreConfig
from monkeyray.redact import has_secret

if TYPE_CHECKING:
    import cyclopts

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Call:
    """A command with its options, and the options that concern this call only."""

    command: str
    config: Any
    call: CallConfig


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise ConfigError for an argument that contains credentials, before anything repeats it."""
    for place, argument in enumerate(arguments):
        if has_secret(argument):
            flags = [re.match(r"--[\w\-]+", each) for each in arguments[place::-1]]
            name = next((found[0] for found in flags if found), "an argument")
            raise ConfigError(
                f"{name} contains credentials before an @ or in a query: remove them, and supply "
                "them through the environment or a role"
            )


def find_command(name: str) -> str:
    """Return the command that an argument names. Raises ConfigError for an unknown command."""
    if name in COMMANDS:
        return name
    names = [*COMMANDS, "completion"]
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
    raise ConfigError(f"unknown command {name!r}: {hint}")


def parse(command: str, arguments: Sequence[str], program: str) -> Call:
    """Parse a command's arguments, without its name.

    `program`: how the command is called, for messages. Raises ConfigError.
    """
    from cyclopts.config import Dict

    kind = COMMANDS[command]
    options = options_of(kind)
    with _one_line(program):
        known = _app(function=_taking(shared_options())).parse_known_args(arguments)
    shared = known[1].arguments
    file = shared.get("config")
    below = []
    if file is not None:
        given = read_options(file, command, _made(StoreConfig, shared).storage())
        below.append(Dict(given, source=f"--config {file}", use_commands_as_keys=False))
    try:
        with _one_line(program):
            app = _app(function=_taking(options), config=below)
            values = app.parse_args(arguments)[1].arguments
        missing = [each.flag for each in options if each.required and each.name not in values]
        if missing:
            raise ConfigError(f"missing: {', '.join(missing)}; see {program} --help")
        store = _made(StoreConfig, values)
        return Call(command, _made(kind, values | {"store": store}), _made(CallConfig, values))
    except ConfigError as error:
        if file is None:
            raise
        raise ConfigError(f"{error} (--config {file} also sets options)") from error


def _made(kind: type[Any], values: dict[str, Any]) -> Any:
    names = [each.name for each in dataclasses.fields(kind) if each.name in values]
    return kind(**{name: values[name] for name in names})


def _app(function: Any = None, config: Iterable[Any] = ()) -> cyclopts.App:
    from cyclopts import App, Parameter

    defaults = Parameter(
        negative_iterable=(), negative_none=(), consume_multiple=True, allow_repeating=True
    )
    app = App(
        name="monkeyray",
        version_flags=(),
        config=config,
        default_parameter=defaults,
        print_error=False,
        exit_on_error=False,
        verbose=False,
    )
    if function is not None:
        app.help_flags = ()
        app.default(function)
    return app


def _taking(options: Iterable[Option]) -> Any:
    """A function with these options as optional keyword parameters."""

    def take(**values: Any) -> None:
        """Never called."""

    take.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if each.required else each.default,
                # Where pydantic is loaded, cyclopts checks defaults by their hints.
                annotation=Annotated[
                    each.hint | None if each.required else each.hint, _details(each)
                ],
            )
            for each in options
        ]
    )
    take.__annotations__ = {}
    return take


def _details(option: Option) -> cyclopts.Parameter:
    from cyclopts import Parameter

    is_whole = option.value == "N" and "int" in str(option.hint)
    return Parameter(
        help=option.brief,
        converter=_to_int if is_whole or int in map(type, option.choices) else None,
        choices=[*map(str, option.choices)] or None,
        allow_leading_hyphen=option.name == "summary_json",  # which may be -
    )


def _to_int(kind: Any, tokens: Sequence[cyclopts.Token]) -> int:
    # The parser itself would round 1.5.
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number.") from None


@contextlib.contextmanager
def _one_line(program: str) -> Iterator[None]:
    """Turn the parser's errors into a ConfigError."""
    from cyclopts import CycloptsError, UnusedCliTokensError

    try:
        yield
    except CycloptsError as error:
        error.verbose = False
        text = str(error)
        if isinstance(error, UnusedCliTokensError):
            text = f"Unexpected argument: {(error.unused_tokens or [''])[0]}."
        text = text[:1].lower() + text[1:]
        raise ConfigError(f"{text} See {program} --help-all") from None


def completion(arguments: Sequence[str]) -> str:
    """Return the script that completes commands and options in a shell.

    Raises ConfigError if the shell is not one of SHELLS.
    """
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise ConfigError(f"completion needs the name of a shell: one of {', '.join(SHELLS)}")
    app = _app()
    for command, kind in COMMANDS.items():
        app.command(_taking(options_of(kind)), name=command, help=(kind.__doc__ or ""))
    return app.generate_completion(shell=arguments[0])  # type: ignore[arg-type]
