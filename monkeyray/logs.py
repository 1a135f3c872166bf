"""Lines of a job's log: text for people, or with --log-format json an object each for programs."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from monkeyray.redact import masked_anywhere

LogFormat = Literal["text", "json"]

#: What a message may begin with, before a colon, and is then its level.
_LEVELS = ("warning", "error")


class Say(Protocol):
    """What writes a line: Reporter.say. `fields`: the message's figures, for programs."""

    def __call__(self, message: str, event: str = "note", **fields: Any) -> None:
        """Write it."""


def to_json(message: str, event: str, *, level: str | None = None, **fields: Any) -> str:
    """A line as a JSON object, without a line break and without credentials in the message.

    It has `time` (ISO 8601, UTC), `level` (info, warning or error, by how the message begins where
    it is not given), `event`, `message`, and the fields.

    >>> line = json.loads(to_json("warning: a is away", "note", tries=2))
    >>> line["level"], line["event"], line["message"], line["tries"]
    ('warning', 'note', 'a is away', 2)
    """
    first, _, rest = message.partition(": ")
    if level is None:
        level, message = (first, rest) if first in _LEVELS else ("info", message)
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": time, "level": level, "event": event, "message": masked_anywhere(message)}
    return json.dumps(line | {name: _plain(value) for name, value in fields.items()})


def _plain(value: Any) -> Any:
    """A value as JSON has it, without credentials; what is no JSON becomes a text, and a number
    that is none becomes null, since a line of a log must not end the job."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return masked_anywhere(str(value))


class JsonFormatter(logging.Formatter):
    """Makes such lines of what other libraries log; their event is `log`."""

    def format(self, record: logging.LogRecord) -> str:
        """One record, with its traceback where it has one."""
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        level = record.levelname.lower()
        return to_json(message, "log", level=level, logger=record.name)


@contextlib.contextmanager
def log_as_json() -> Iterator[None]:
    """Let what other libraries log and warn of in this process be JSON too."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)


def follow_root(*names: str) -> None:
    """Let loggers that have handlers of their own for the terminal write JSON where the root logger
    does."""
    written = [handler.formatter for handler in logging.getLogger().handlers]
    found = next((each for each in written if isinstance(each, JsonFormatter)), None)
    if found is None:
        return
    for name in names:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                handler.setFormatter(found)
