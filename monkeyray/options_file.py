"""The TOML file of options that is written beside every result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from monkeyray.errors import ConfigError
from monkeyray.options import IsPlace, flag, place_mark, type_hints
from monkeyray.redact import has_secret
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: The name beside other results; in a folder of predictions a name that readers of data sets skip.
NAME, HIDDEN_NAME = "config.toml", "_config.toml"

#: Options that act once on existing files. They are not written down, so that reusing a file
#: deletes nothing.
ONCE = ("overwrite", "update", "retry_failed", "dry_run")


def write_options(place: str | Location, config: Any, storage: Storage, name: str = NAME) -> None:
    """Write the options that made a result into its folder or prefix, over an older file."""
    storage.write(Location.of(place) / name, to_toml(config).encode())


def write_options_beside(uri: str | Location, config: Any, storage: Storage) -> None:
    """Write the options that made a file, or a folder for other programs, to URI.config.toml.

    A whole bucket has nothing beside it, so there the file goes inside.
    """
    place = Location.of(uri)
    beside = dataclasses.replace(place, path=f"{place.path}.{NAME}") if place.path else place / NAME
    storage.write(beside, to_toml(config).encode())


def to_toml(config: Any) -> str:
    """Format options as TOML for --config. Places are absolute, so it works from any folder.

    A value that TOML cannot hold, or that carries a secret, is left out with a comment.
    """
    command = type(config).__name__.removesuffix("Config").lower()
    lines = [
        "# The options that made this result. To repeat it:",
        f"#   monkeyray {command} --config THIS-FILE",
        "",
    ]
    for name, hint, value in _values(config):
        if name in ONCE or value is None:
            continue
        try:
            lines.append(f"{flag(name)} = {_to_toml(_in_full(place_mark(hint), value))}")
        except ValueError as why:
            lines.append(f"# {flag(name)} is left out: {why}")
    return "\n".join(lines) + "\n"


def _values(config: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each option's name, type and value, those of nested dataclasses last."""
    nested = []
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            nested.append(value)
        elif each.init:
            yield each.name, type_hints(type(config))[each.name], value
    for value in nested:
        yield from _values(value)


def _in_full(place: IsPlace | None, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_in_full(place, each) for each in value)
    if place is None or place.is_word(value):
        return value
    try:
        return str(Location.parse(value))
    except ConfigError:
        # For example the name of a tracking server; _to_toml checks it for secrets.
        return value


def _to_toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_to_toml, value))}]"
    if has_secret(value):
        raise ValueError("it contains a secret")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it is not UTF-8") from None
    # JSON's escapes are TOML's, but for the one character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
