"""Files with the options of a command, in TOML or YAML: read for --config, and written beside every
result so that it can be made again.

A file is flat: a key for each option, by its name on the command line, with - or _. No option is a
secret, and what looks like one is refused and never repeated.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from monkeyray.errors import ConfigError
from monkeyray.options import Option, options_of
from monkeyray.options_calls import CallConfig
from monkeyray.options_shared import flag
from monkeyray.redact import has_secret
from monkeyray.storage.location import is_local, join, local_uri, normalise
from monkeyray.storage.store import Storage

#: The name beside other results; in a folder of predictions a name that readers of data sets skip.
NAME, HIDDEN_NAME = "config.toml", "_config.toml"

#: Options that say what is to happen once to what is there. They are not written down, so that a
#: file that is used again deletes nothing.
ONCE = ("overwrite", "update", "retry_failed", "dry_run")

_CALL = frozenset(each.name for each in dataclasses.fields(CallConfig))


def write_options(place: str, config: Any, storage: Storage, name: str = NAME) -> None:
    """Write the options that made a result into its folder or prefix, over an older file."""
    storage.write(join(place, name), to_toml(config).encode())


def write_options_beside(uri: str, config: Any, storage: Storage) -> None:
    """Write the options that made a file, or a folder that is for others, to a file of the same
    name with the end .config.toml; of a whole bucket, which has no beside, into it."""
    whole = not is_local(uri) and "/" not in uri.partition("://")[2]
    storage.write(join(uri, NAME) if whole else f"{uri}.{NAME}", to_toml(config).encode())


def to_toml(config: Any) -> str:
    """The options as TOML that `read_options` reads to the same: places in full, so that it does so
    from any folder, and without what happens once.

    A value that TOML cannot hold, or that carries a secret, is left out, and a comment says so.
    """
    kind = type(config)
    command = kind.__name__.removesuffix("Config").lower()
    lines = [
        "# The options that made this. To do the same again:",
        f"#   monkeyray {command} --config THIS-FILE",
    ]
    heading = None
    for option in options_of(kind):
        if option.name in _CALL or option.name in ONCE:
            continue
        value = getattr(config, option.name, dataclasses.MISSING)
        if value is dataclasses.MISSING:
            value = getattr(config.store, option.name)
        if value is None:
            continue
        if heading != option.heading:
            heading = option.heading
            lines += ["", f"# {heading}"]
        try:
            lines.append(f"{flag(option.name)} = {_to_toml(_in_full(option, value))}")
        except ValueError as why:
            lines.append(f"# {flag(option.name)} is left out: {why}")
    return "\n".join(lines) + "\n"


def _in_full(option: Option, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_in_full(option, each) for each in value)
    if option.place is None or value in option.place.words:
        return value
    try:
        return local_uri(normalise(value))
    except ConfigError:
        # As a tracking server's name may be; that it carries no secret is looked at below.
        return value


def _to_toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_to_toml, value))}]"
    if has_secret(value):
        raise ValueError("it carries a secret")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it is not in UTF-8") from None
    # JSON's escapes are TOML's, but for the one character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
