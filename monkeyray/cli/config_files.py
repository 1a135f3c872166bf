"""Reads a command's options from a TOML or YAML file, for --config.

A file is flat: one key for each option, by its name on the command line, with - or _. Options hold
no secrets, so anything that looks like one is refused and never repeated.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from typing import Any

from monkeyray.cli.commands import COMMANDS
from monkeyray.cli.fields import options_of
from monkeyray.errors import ConfigError, ObjectError
from monkeyray.options import CallConfig, flag
from monkeyray.redact import has_secret, masked_anywhere
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

_MAX_BYTES = 2**20
_SECRET = re.compile(r"secret|password|passwd|token|credential|access.?key|api.?key", re.IGNORECASE)
_CALL = CallConfig.__dataclass_fields__


def read_options(uri: str, command: str, storage: Storage) -> dict[str, Any]:
    """Read a command's options from a file, by field name. Their values are not checked yet.

    Raises ConfigError that names the file, the key and what to write.
    """
    place = Location.parse(uri)
    shown = f"--config {place}"
    known = {each.name for each in options_of(COMMANDS[command])} - {*_CALL}
    found: dict[str, Any] = {}
    for key, value in _parse(place, storage, shown):
        if not isinstance(key, str):
            raise ConfigError(f"{shown} has a key that is not text: write lines such as `seed: 1`")
        name = key.replace("-", "_")
        if name not in known:
            repeated = masked_anywhere(repr(key[:80]))
            raise ConfigError(f"{shown} has the key {repeated}, {_why_unknown(name, command)}")
        if name in found:
            raise ConfigError(f"{shown} gives {flag(name)} twice: leave one of them out")
        values = value if isinstance(value, list) else [value]
        if any(isinstance(each, list | dict) for each in values):
            raise ConfigError(f"{shown} nests lists or tables in {flag(name)}: write plain values")
        if any(has_secret(str(each)) for each in values):
            raise ConfigError(
                f"{shown} has credentials in {flag(name)}: remove them, and supply them through "
                "the environment or a role"
            )
        if value is not None:
            found[name] = value
    return found


def _parse(place: Location, storage: Storage, shown: str) -> list[tuple[Any, Any]]:
    kind = place.path.rpartition(".")[2].lower()
    if kind not in ("toml", "yaml", "yml"):
        raise ConfigError(f"{shown} is not an options file: its name must end in .toml or .yaml")
    try:
        text = storage.read(place, _MAX_BYTES).data.decode("utf-8-sig")
    except ObjectError as error:
        raise ConfigError(f"{shown} cannot be read: {error}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{shown} is not in UTF-8: save it as UTF-8") from None
    if kind != "toml":
        return _parse_yaml(text, shown)
    try:
        return list(tomllib.loads(text).items())
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{shown} is not valid TOML: {masked_anywhere(str(error))}") from None


def _parse_yaml(text: str, shown: str) -> list[tuple[Any, Any]]:
    import yaml  # type: ignore[import-untyped]

    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if node is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{shown} is not a list of options: write lines such as `seed: 1`")
        # As pairs, since a dictionary would hide a repeated key.
        loader = yaml.SafeLoader("")
        return [
            (loader.construct_object(key, True), loader.construct_object(value, True))
            for key, value in node.value
        ]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        # Not the whole error, which repeats the line.
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ConfigError(f"{shown} is not valid YAML{where}: {masked_anywhere(problem)}") from None


def _why_unknown(name: str, command: str) -> str:
    if name in _CALL:
        return f"which is accepted on the command line only: pass it there as --{flag(name)}"
    if _SECRET.search(name):
        return (
            "and no option holds a secret: remove it, and supply credentials through the "
            "environment or a role"
        )
    names = {each: [one.name for one in options_of(kind)] for each, kind in COMMANDS.items()}
    others = [other for other, own in names.items() if name in own]
    if others:
        return (
            f"which is an option of {' and '.join(others)}, not of {command}: leave it out, or use "
            "another file"
        )
    near = difflib.get_close_matches(name, names[command], 1)
    if near:
        return f"which is not an option of {command}: did you mean {flag(near[0])}?"
    return f"which is not an option of {command}: monkeyray {command} --help-all lists them"
