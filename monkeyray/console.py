"""What a job prints: lines and bars for people, JSON lines for programs, never anything unsafe.

File and label names come from the data's author. They may hold control characters that
overwrite earlier output, change a terminal's title or reverse the writing direction. Result files
keep the names as they are; printed text shows such characters as escapes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from typing import Any, Literal, Protocol

from monkeyray.redact import masked_anywhere

LogFormat = Literal["text", "json"]

_LINE_SECONDS = 30.0

#: The window over which rates are measured. Nodes come and go, so older figures mean little.
_PACE_SECONDS = 60.0

#: Called with the total number of images and the rows by status so far.
Advance = Callable[[int, dict[str, int]], None]

_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029"
#: Control characters, bidirectional overrides (which make one name look like another) and
#: surrogates (which stand for bytes that are not UTF-8).
_HIDDEN = re.compile(rf"[{_CONTROL}\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_IN_A_NAME = re.compile(rf"[{_CONTROL}\t\n]")


def escape_control(text: str) -> str:
    """Escape every character that could control a terminal. Line breaks and tabs stay.

    >>> escape_control("a\\x1b[2J.jpg\\nb")
    'a\\\\x1b[2J.jpg\\nb'
    """
    return _HIDDEN.sub(
        lambda found: found[0].encode("unicode_escape", "backslashreplace").decode(), text
    )


def escape_control_line(text: str) -> str:
    """Escape a text so that it prints as a single line.

    >>> escape_control_line("a\\nerror: b")
    'a\\\\nerror: b'
    """
    return escape_control(text).replace("\n", "\\n")


def counted(count: int, noun: str) -> str:
    """A number with its noun, singular or plural.

    >>> counted(1, "image"), counted(2, "image"), counted(0, "broken box")
    ('1 image', '2 images', '0 broken boxes')
    """
    plural = f"{noun}es" if noun.endswith("x") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def has_control(name: str) -> bool:
    """Whether a name contains control characters, line breaks or tabs.

    >>> has_control("red fox"), has_control("red\\tfox")
    (False, True)
    """
    return _IN_A_NAME.search(name) is not None


def print_any_character() -> None:
    """Escape characters that the terminal's encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Result(ABC):
    """What a command returns. A notebook shows its summary."""

    @property
    def exit_code(self) -> int:
        """Its command's exit code."""
        return 0

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Its figures, for --summary-json."""

    @abstractmethod
    def __str__(self) -> str:
        """Its summary, for people."""

    def __repr__(self) -> str:
        return escape_control(masked_anywhere(str(self)))


class Say(Protocol):
    """A function that prints a line: Reporter.say. `fields`: the message's figures as data."""

    def __call__(self, message: str, event: str = "note", **fields: Any) -> None:
        """Print it."""


def to_json(message: str, event: str, *, level: str | None = None, **fields: Any) -> str:
    """Format a log line as a JSON object on one line, with credentials masked.

    It has `time` (ISO 8601, UTC), `level` (info, warning or error; taken from the message's prefix
    unless given), `event`, `message`, and the fields.

    >>> line = json.loads(to_json("warning: a is away", "note", tries=2))
    >>> line["level"], line["event"], line["message"], line["tries"]
    ('warning', 'note', 'a is away', 2)
    """
    first, _, rest = message.partition(": ")
    if level is None:
        level, message = (first, rest) if first in ("warning", "error") else ("info", message)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": now, "level": level, "event": event, "message": message}
    return json.dumps(_plain(line | fields))


def _plain(value: Any) -> Any:
    """Make a value valid JSON, since a log line must never end the job.

    Texts have credentials masked, other objects become texts, and NaN and infinity become null.
    """
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
    """Formats other libraries' log records as JSON lines with the event `log`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record, with its traceback if it has one."""
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        return to_json(message, "log", level=record.levelname.lower(), logger=record.name)


@contextlib.contextmanager
def log_as_json() -> Iterator[None]:
    """Print other libraries' warnings and errors as JSON lines too."""
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
    """Make loggers with terminal handlers of their own write JSON if the root logger does."""
    formatters = [handler.formatter for handler in logging.getLogger().handlers]
    found = next((each for each in formatters if isinstance(each, JsonFormatter)), None)
    if found is None:
        return
    for name in names:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                handler.setFormatter(found)


#: Waits for the line `ok`. If its parent dies without it, it prints what the parent wrote.
_WATCH = 'read -r said; [ "$said" = ok ] || cat "/proc/self/fd/$0" >&2'


_SILENCING = threading.Lock()


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Drop what native code writes to standard error, unless this process crashes meanwhile.

    TensorFlow and Ray print some lines at startup that none of their options turns off. Exceptions
    are not affected; after a crash, a small watching process prints what was held back.
    """
    # File descriptor 2 is the whole process's: of two threads, the second leaves it as it is.
    if not _SILENCING.acquire(blocking=False):
        yield
        return
    try:
        with _stderr_held_back():
            yield
    finally:
        _SILENCING.release()


@contextlib.contextmanager
def _stderr_held_back() -> Iterator[None]:
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    with os.fdopen(kept, "wb"), tempfile.TemporaryFile() as held:
        try:
            watch = subprocess.Popen(
                ["/bin/sh", "-c", _WATCH, str(held.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=[held.fileno()],
            )
        except OSError:  # nothing could print it after a crash
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            watch.communicate(b"ok\n")


class Pace:
    """Measures a rate over the last minute, or since the start if that is shorter."""

    def __init__(self) -> None:
        self._seen = deque([(time.monotonic(), 0)])

    def rate(self, done: int) -> float:
        """Add the count so far, and return the items per second."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[1][0] >= _PACE_SECONDS:
            self._seen.popleft()
        start, before = self._seen[0]
        # A count may restart, for example after a node is lost.
        return max(0, done - before) / max(now - start, 1e-9)


class Reporter:
    """Prints to standard error, or nothing at all if `quiet`."""

    def __init__(self, quiet: bool, log_format: LogFormat = "text") -> None:
        self._quiet = quiet
        self._format = log_format

    def say(self, message: str, event: str = "note", **fields: Any) -> None:
        """Print one line. `event` and `fields` appear in JSON only."""
        if not self._quiet:
            is_text = self._format == "text"
            line = escape_control_line(message) if is_text else to_json(message, event, **fields)
            # One write, so that the lines of several threads or processes do not mix.
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    @contextlib.contextmanager
    def bar(self, what: str, unit: str = "images") -> Iterator[Advance]:
        """Show progress with rate and ETA: a bar in a terminal, otherwise a line every 30 seconds
        and one at the end.

        `unit`: what is counted, in the plural.
        """
        if self._quiet:
            yield lambda total, rows: None
        elif self._format == "text" and sys.stderr.isatty():
            with _bar(what, unit) as advance:
                yield advance
        else:
            yield self._lines(what, unit)

    def _lines(self, what: str, unit: str) -> Advance:
        start = last = time.monotonic()
        pace, ended = Pace(), False

        def advance(total: int, rows: dict[str, int]) -> None:
            nonlocal last, ended
            done, now = sum(rows.values()), time.monotonic()
            rate = pace.rate(done)
            # Files are still being written after the last image, but the end is printed once.
            if ended or (done < total and now - last < _LINE_SECONDS):
                return
            last, ended = now, done >= total
            if ended:
                rate = done / max(now - start, 1e-9)
            left = (total - done) / rate if rate else None
            form = ".0f" if rate >= 10 else ".1f"
            rest = "" if left is None else f", {in_words(left)} left"
            bad = "".join(f", {count} {status}" for status, count in _bad(rows).items())
            self.say(
                f"{what}: {done} of {total}, {rate:{form}} {unit}/s{rest}{bad}",
                "progress",
                task=what,
                unit=unit,
                done=done,
                total=total,
                rate=round(rate, 3),
                eta_seconds=None if left is None else round(left),
                elapsed_seconds=round(now - start, 1),
                rows=rows,
            )

        return advance


@contextlib.contextmanager
def _bar(what: str, unit: str) -> Iterator[Advance]:
    from tqdm import tqdm

    bar: tqdm | None = None

    def advance(total: int, rows: dict[str, int]) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=what, unit=f" {unit}", dynamic_ncols=True)
        bar.set_postfix(_bad(rows), refresh=False)
        bar.update(sum(rows.values()) - bar.n)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()


def _bad(rows: Mapping[str, int]) -> dict[str, int]:
    return {status: count for status, count in rows.items() if status != "ok" and count}


def in_words(seconds: float) -> str:
    """A duration for people.

    >>> in_words(95), in_words(1500), in_words(20000)
    ('95 s', '25 min', '5.6 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
