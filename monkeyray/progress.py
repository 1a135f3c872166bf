"""What a person sees while a job runs: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from monkeyray.logs import LogFormat, to_json
from monkeyray.terminal import escape_control_line

_LINE_SECONDS = 30.0

#: Over how long a rate is taken: nodes come and go, and what was an hour ago says little.
_PACE_SECONDS = 60.0

#: Called with the number of images to do and the rows by status so far.
Advance = Callable[[int, dict[str, int]], None]


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Keep what C++ code writes to standard error away from it.

    TensorFlow and Ray print some lines while they start that no option of theirs turns off. Errors
    come as exceptions, and are not touched.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Pace:
    """How fast something goes now: over the last minute, or since the start where that is later."""

    def __init__(self) -> None:
        self._seen = deque([(time.monotonic(), 0)])

    def rate(self, done: int) -> float:
        """Take how many are done in all by now; returns how many a second."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[1][0] >= _PACE_SECONDS:
            self._seen.popleft()
        start, before = self._seen[0]
        # A count that begins anew, as after a lost node, is no progress backwards.
        return max(0, done - before) / max(now - start, 1e-9)


class Reporter:
    """Writes to standard error, or nothing at all when `quiet`."""

    def __init__(self, quiet: bool, log_format: LogFormat = "text") -> None:
        self._quiet = quiet
        self._format = log_format

    def say(self, message: str, event: str = "note", **fields: Any) -> None:
        """One line. `event` and `fields` are for programs."""
        if not self._quiet:
            is_text = self._format == "text"
            line = escape_control_line(message) if is_text else to_json(message, event, **fields)
            print(line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def bar(self, what: str, unit: str = "images") -> Iterator[Advance]:
        """A bar with rate and ETA; where there is no terminal, or the log is JSON, a line every 30
        seconds and one at the end.

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
            # Files are still written after the last image, and the end is told once.
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
                rows=dict(rows),
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
    """A time as people say it.

    >>> in_words(95), in_words(1500), in_words(20000)
    ('95 s', '25 min', '5.6 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
