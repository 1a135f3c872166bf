"""A tracker gets the figures of a training epoch by epoch; the first worker writes them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monkeyray.console import escape_control_line
from monkeyray.redact import masked_anywhere

Figures = Mapping[str, Any]

#: When an epoch ended, in seconds since 1970, and its figures.
Epoch = tuple[float, Figures]

#: Epochs on cached features take milliseconds, so they are sent together.
_EVERY_SECONDS = 5.0
#: How long to pause a failed tracker, doubled each time: all workers wait for its timeout.
_AGAIN_SECONDS = 60.0


class Tracker:
    """A place for the figures of one training; it is pickled to the first worker. `stage`: head or
    fine_tuning. All methods may raise anything."""

    def begin(self) -> str:
        """Open the run, or continue the interrupted one; returns a line that says where."""
        return ""

    def last(self, stage: str) -> int:
        """The last epoch that is there, -1 for none."""
        return -1

    def write(self, stage: str, epochs: Sequence[Epoch]) -> None:
        """Add epochs that are later than the last."""

    def finish(self, model: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """End the run, with the content of model.json and texts by name."""

    def interrupt(self, status: str) -> None:
        """End the run as FAILED or KILLED."""


@dataclass
class _Pen:
    tracker: Tracker
    written: int | None = None
    next_try: float = 0.0
    failures: int = 0
    problem: str | None = None


class EpochLog:
    """Writes each epoch of one stage to every tracker once, even if some fail for a while."""

    def __init__(
        self,
        stage: str,
        trackers: Iterable[Tracker],
        history: Iterable[Figures] = (),
        *,
        aloud: bool = True,
    ) -> None:
        """`history`: earlier epochs, some of which a tracker may lack. `aloud`: print problems."""
        self._stage, self._aloud = stage, aloud
        now = time.time()
        self._epochs = [(now, figures) for figures in history]
        self._pens = [_Pen(tracker) for tracker in trackers]

    def add(self, figures: Figures) -> None:
        """Take an epoch, and write it soon."""
        self._epochs.append((time.time(), figures))
        for pen in self._pens:
            if time.monotonic() >= pen.next_try:
                self._write(pen)

    def flush(self) -> list[str]:
        """Write all epochs, except where that failed a moment ago; returns the problems left."""
        for pen in self._pens:
            if pen.problem is None or time.monotonic() >= pen.next_try:
                self._write(pen)
        return [pen.problem for pen in self._pens if pen.problem is not None]

    def _write(self, pen: _Pen) -> None:
        try:
            if pen.written is None:
                pen.written = pen.tracker.last(self._stage)
            new = [each for each in self._epochs if each[1]["epoch"] > pen.written]
            if new:
                pen.tracker.write(self._stage, new)
                pen.written = int(new[-1][1]["epoch"])
        except Exception as error:  # the training goes on, whatever the server raises
            # The data may have arrived all the same.
            pen.written = None
            pen.problem = problem_of(pen.tracker, error)
            pen.next_try = time.monotonic() + _AGAIN_SECONDS * 2**pen.failures
            pen.failures += 1
            if self._aloud:
                print(escape_control_line(f"warning: {pen.problem}"), file=sys.stderr, flush=True)
        else:
            pen.problem, pen.failures = None, 0
            pen.next_try = time.monotonic() + _EVERY_SECONDS


@dataclass(frozen=True)
class Stage:
    """One stage of a training and its trackers, which travel to the first worker."""

    name: str = "head"
    trackers: tuple[Tracker, ...] = ()

    def open(self, history: Iterable[Figures] = (), *, aloud: bool = True) -> EpochLog:
        """Begin, or continue after the epochs of `history`. `aloud`: see EpochLog."""
        return EpochLog(self.name, self.trackers, history, aloud=aloud)


def problem_of(tracker: object, error: Exception) -> str:
    """A line on what a tracker raised, without credentials."""
    line = next(iter(str(error).splitlines()), "")
    return f"{tracker}: {masked_anywhere(f'{type(error).__name__}: {line}')[:300]}"
