"""Reads files with the options of a command, in TOML or YAML, for --config."""

from __future__ import annotations

import dataclasses
import difflib
import re
import reprlib
import tomllib
import typing
from typing import Any, Literal

from monkeyray.cli.commands import COMMANDS
from monkeyray.errors import ConfigError, ObjectError
from monkeyray.options import Option, options_of
from monkeyray.options_calls import CallConfig
from monkeyray.options_shared import flag
from monkeyray.redact import masked_anywhere
from monkeyray.storage.location import normalise
from monkeyray.storage.store import Storage

_MOST_BYTES = 2**20


_SECRET = re.compile(r"secret|password|passwd|token|credential|access.?key|api.?key", re.IGNORECASE)


#: YAML's aliases make lists of lists that would fill any memory when written out. Texts are whole,
#: since a URI without its end is not masked.
#: YAML's aliases make lists of lists that would fill any memory when written out. Texts are whole,
#: since a URI without its end is not masked.
_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_REPR.maxstring = _REPR.maxother = _MOST_BYTES
_CALL = frozenset(each.name for each in dataclasses.fields(CallConfig))


def read_options(uri: str, command: str, storage: Storage) -> dict[str, Any]:
    """The options of a command that a file gives, by field name, each of its option's type.

    Raises ConfigError that names the file, the key, the value and what to write.
    """
    uri = normalise(uri)
    shown = f"--config {uri}"
    known = {each.name: each for each in options_of(COMMANDS[command]) if each.name not in _CALL}
    found: dict[str, Any] = {}
    for key, value in _parse(uri, storage, shown):
        name = key.replace("-", "_") if isinstance(key, str) else ""
        if name not in known:
            raise ConfigError(f"{shown} has the key {_shown(key)}, {_why_unknown(name, command)}")
        if name in found:
            raise ConfigError(f"{shown} gives {flag(name)} twice: leave one of them out")
        try:
            found[name] = _convert(known[name], value)
        except _WrongError as wrong:
            raise ConfigError(
                f"{shown} has {key} = {_shown(value)}: {flag(name)} has to be {wrong}"
            ) from None
    return found


def _parse(uri: str, storage: Storage, shown: str) -> list[tuple[Any, Any]]:
    kind = uri.rpartition(".")[2].lower()
    if kind not in ("toml", "yaml", "yml"):
        raise ConfigError(f"{shown} is no file of options: its name has to end in .toml or .yaml")
    try:
        text = storage.read(uri, _MOST_BYTES).data.decode("utf-8-sig")
    except ObjectError as error:
        raise ConfigError(f"{shown} cannot be read: {error}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{shown} is not in UTF-8: save it as that") from None
    if kind == "toml":
        try:
            return list(tomllib.loads(text).items())
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(f"{shown} is no TOML: {masked_anywhere(str(error))}") from None
    return _parse_yaml(text, shown)


def _parse_yaml(text: str, shown: str) -> list[tuple[Any, Any]]:
    import yaml  # type: ignore[import-untyped]

    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if node is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{shown} is no list of options: write lines as `seed: 1`")
        # By pairs, since a dictionary would hide a key that is there twice.
        loader = yaml.SafeLoader("")
        return [
            (loader.construct_object(key, True), loader.construct_object(value, True))
            for key, value in node.value
        ]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        # Not the error itself, which repeats the line.
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ConfigError(f"{shown} is no YAML{where}: {masked_anywhere(problem)}") from None


def _why_unknown(name: str, command: str) -> str:
    """What is wrong with a key that is no option of the command. The value is not looked at."""
    if name in _CALL:
        return f"which is for the command line alone: give it there as --{flag(name)}"
    if _SECRET.search(name):
        return (
            "and no option is a secret: take it out, and give credentials through the environment "
            "or a role"
        )
    others = [
        other
        for other, kind in COMMANDS.items()
        if name in {each.name for each in options_of(kind)}
    ]
    if others:
        return (
            f"which is an option of {' and '.join(others)}, not of {command}: leave it out, or use "
            "another file"
        )
    names = [each.name for each in options_of(COMMANDS[command]) if each.name not in _CALL]
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"which is no option of {command}: did you mean {flag(near[0])}?"
    return f"which is no option of {command}: monkeyray {command} --help-all lists them"


class _WrongError(Exception):
    """What a value has to be."""


def _convert(option: Option, value: Any) -> Any:
    if value is None and option.optional:
        return None
    kind = option.kind
    if typing.get_origin(kind) is tuple:
        return _convert_all(typing.get_args(kind), value, is_place=option.place is not None)
    if typing.get_origin(kind) is Literal:
        words = typing.get_args(kind)
        if value not in words:
            raise _WrongError(f"one of {', '.join(words)}")
        return value
    return _convert_one(kind, value, is_place=option.place is not None)


def _convert_all(kinds: tuple[Any, ...], value: Any, *, is_place: bool) -> tuple[Any, ...]:
    count = None if kinds[1:] == (...,) else len(kinds)
    if not isinstance(value, list) or count not in (None, len(value)):
        some = "a list of" if count is None else f"a list of {count}"
        kind = "numbers, as [0.001, 0.1]" if kinds[0] is float else 'texts, as ["one", "other"]'
        if is_place:
            kind = 'paths or URIs, as ["one.csv", "other.csv"]'
        raise _WrongError(f"{some} {kind}")
    return tuple(_convert_one(kinds[0], each, is_place=is_place) for each in value)


def _convert_one(kind: Any, value: Any, *, is_place: bool) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is bool:
        if not isinstance(value, bool):
            raise _WrongError("true or false, without quotes")
    elif kind is int:
        if not is_number or not isinstance(value, int):
            raise _WrongError("a whole number, without quotes")
    elif kind is float:
        if not is_number:
            # YAML takes 1e-4 for a text.
            raise _WrongError("a number, without quotes and with a point, as 0.5 or 1.0e-4")
        return float(value)
    elif not isinstance(value, str):
        # `top-k = 5` and `head = 256` are numbers to a person, too.
        if is_number and not is_place:
            return str(value)
        raise _WrongError("a path or URI in quotes" if is_place else "a text in quotes")
    return value


def _shown(value: Any) -> str:
    text = masked_anywhere(_REPR.repr(value))
    return text if len(text) <= 80 else f"{text[:77]}…"
