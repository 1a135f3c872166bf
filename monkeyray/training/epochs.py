"""How a training goes on, told while it lasts: a line every 30 seconds, and metrics.

Ray Train's workers say nothing to the driver before they end. The first of them leaves its epochs
on a board, an actor that the driver hangs up once a training has lasted a while, so that a short
one does not wait for another process.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monkeyray.console import Reporter, in_words
from monkeyray.runs.telemetry import EpochMeter

#: A training that is done by then is not followed.
_SHORT_SECONDS = 10.0
_LINE_SECONDS = 30.0
_LOOK_SECONDS = 1.0

#: An epoch's time in seconds since 1970, and its figures.
Epoch = tuple[float, Mapping[str, Any]]


class Board:
    """The actor: the first and the last epoch since the workers began."""

    def __init__(self) -> None:
        self._seen: tuple[Epoch, Epoch] | None = None

    def add(self, first: Epoch, last: Epoch) -> None:
        """Note epochs that follow each other."""
        # Workers that were started again repeat some, and the time between was no epoch's.
        again = self._seen is None or first[1]["epoch"] <= self._seen[1][1]["epoch"]
        self._seen = (first if self._seen is None or again else self._seen[0], last)

    def seen(self) -> tuple[Epoch, Epoch] | None:
        """The first and the last one, None before there is any."""
        return self._seen


@dataclass
class BoardSink:
    """A sink of a training's epochs, in its first worker: the board of that name, once it hangs.
    `after`: the last epoch that earlier workers have done."""

    name: str
    after: int = -1

    def forget(self, after: int) -> None:
        """Leave out the epochs up to this one: nobody has kept when they were done."""
        self.after = after

    def last(self) -> int:
        """The last epoch that need not be told."""
        return self.after

    def write(self, epochs: Sequence[Epoch]) -> None:
        """Leave the first and the last of some epochs."""
        import ray

        with contextlib.suppress(ValueError):  # there is no such actor yet
            ray.get_actor(self.name).add.remote(epochs[0], epochs[-1])


@dataclass(frozen=True)
class Follower:
    """Tells how a training goes on. `what`: training or fine-tuning; `run`: the model's URI;
    `epochs`: how many there are at most."""

    what: str
    run: str
    epochs: int
    reporter: Reporter
    sink: BoardSink

    @classmethod
    def create(cls, what: str, run: str, epochs: int, reporter: Reporter) -> Follower:
        """One with a board of its own."""
        return cls(what, run, epochs, reporter, BoardSink(f"monkeyray-{uuid.uuid4().hex}"))

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Tell it while something else waits for the training's end."""
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=2)  # it may be waiting for an answer, which the end need not

    def _follow(self, stop: threading.Event) -> None:
        # Ray may be ending at any moment, and telling is no reason to fail.
        with contextlib.suppress(Exception):
            self._tell(stop)

    def _tell(self, stop: threading.Event) -> None:
        import ray

        start = told = time.monotonic()
        if stop.wait(_SHORT_SECONDS):
            return
        board = ray.remote(num_cpus=0, max_restarts=-1)(Board).options(name=self.sink.name).remote()
        meter = EpochMeter(self.what, self.run)
        try:
            while not stop.wait(_LOOK_SECONDS):
                # It may be starting again, after its node was lost.
                with contextlib.suppress(ray.exceptions.RayError):
                    seen = ray.get(board.seen.remote(), timeout=10)
                    if seen is not None:
                        meter.epoch(seen[1][1])
                    if time.monotonic() - told >= _LINE_SECONDS:
                        told = time.monotonic()
                        message, fields = describe(self.what, self.epochs, seen, told - start)
                        self.reporter.say(message, "progress", **fields)
        finally:
            ray.kill(board)


def describe(
    what: str, epochs: int, seen: tuple[Epoch, Epoch] | None, elapsed: float
) -> tuple[str, dict[str, Any]]:
    """A line on a training, and its figures. A training stops early as a rule: what is left is the
    most that it can be.

    >>> first, last = (100.0, {"epoch": 1}), (130.0, {"epoch": 4, "validation_loss": 0.25})
    >>> describe("training", 10, (first, last), 50)[0]
    'training: epoch 4 of 10 at most, 10.0 s each, 60 s left at most, validation loss 0.2500'
    """
    fields = {"task": what, "unit": "epochs", "total": epochs, "elapsed_seconds": round(elapsed, 1)}
    if seen is None:
        nothing = {"done": 0, "rate": None, "eta_seconds": None}
        return f"{what}: the first epoch is not done after {elapsed:.0f} s", fields | nothing
    (start, first), (end, last) = seen
    done = int(last["epoch"])
    line, rate, left = f"{what}: epoch {done} of {epochs} at most", None, None
    if done > first["epoch"] and end > start:
        each = (end - start) / (done - first["epoch"])
        rate, left = round(1 / each, 6), round((epochs - done) * each)
        line += f", {each:.1f} s each, {in_words(left)} left at most"
    figures = {key: value for key, value in last.items() if key != "epoch"}
    if "validation_loss" in figures:
        line += f", validation loss {figures['validation_loss']:.4f}"
    return line, fields | {"done": done, "rate": rate, "eta_seconds": left, **figures}
