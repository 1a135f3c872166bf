"""Progress of a training: a line every 30 seconds, and metrics.

Workers return nothing to the driver before they end, so the first of them leaves its last epoch in
a small file below the model's place, which the driver reads.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monkeyray.console import Reporter, in_words
from monkeyray.errors import ObjectError
from monkeyray.redact import masked
from monkeyray.runs.workers.telemetry import EpochMeter
from monkeyray.storage.store import Storage
from monkeyray.training.tracking.tracker import Epoch, Tracker

#: Shorter trainings are not followed.
_SHORT_SECONDS = 10.0
_LINE_SECONDS = 30.0
_LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class ProgressFile(Tracker):
    """The tracker that the driver reads while the workers train: the last epoch, as JSON."""

    storage: Storage
    uri: str

    def __str__(self) -> str:
        return f"progress in {masked(self.uri)}"

    def write(self, stage: str, epochs: Sequence[Epoch]) -> None:
        """Replace the file with the last of the epochs. Raises StorageError."""
        self.storage.write(self.uri, json.dumps(epochs[-1][1]).encode())

    def read(self) -> Mapping[str, Any] | None:
        """The figures of the last epoch, None before there is one."""
        with contextlib.suppress(ObjectError, ValueError):
            figures: Mapping[str, Any] = json.loads(self.storage.read(self.uri).data)
            return figures
        return None


@contextlib.contextmanager
def following(
    file: ProgressFile, what: str, run: str, epochs: int, reporter: Reporter, metrics: bool
) -> Iterator[None]:
    """Report on a training while something else waits for its end.

    `what`: training or fine-tuning; `run`: the model's URI; `epochs`: how many there are at most;
    `metrics`: whether there is a Ray to export them.
    """
    stop = threading.Event()

    def follow() -> None:
        # Ray may end at any moment, and a failed report is no reason to fail the training.
        with contextlib.suppress(Exception):
            _report(file, what, run, epochs, reporter, metrics, stop)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=2)


def _report(
    file: ProgressFile,
    what: str,
    run: str,
    epochs: int,
    reporter: Reporter,
    metrics: bool,
    stop: threading.Event,
) -> None:
    start = told = time.monotonic()
    if stop.wait(_SHORT_SECONDS):
        return
    meter = EpochMeter(what, run) if metrics else None
    seen: tuple[Epoch, Epoch] | None = None
    while not stop.wait(_LOOK_SECONDS):
        figures = file.read()
        now = time.monotonic()
        if figures is not None:
            if meter is not None:
                meter.epoch(figures)
            # Workers that were restarted repeat some epochs.
            if seen is None or figures["epoch"] < seen[1][1]["epoch"]:
                seen = ((now, figures), (now, figures))
            elif figures["epoch"] > seen[1][1]["epoch"]:
                seen = (seen[0], (now, figures))
        if now - told >= _LINE_SECONDS:
            told = now
            message, fields = describe(what, epochs, seen, told - start)
            reporter.say(message, "progress", **fields)


def describe(
    what: str, epochs: int, seen: tuple[Epoch, Epoch] | None, elapsed: float
) -> tuple[str, dict[str, Any]]:
    """A line on a training and its figures. `seen`: the first and the last epoch, each with the
    time in seconds when it was seen. Since training stops early, the time left is an upper bound.

    >>> first, last = (100.0, {"epoch": 1}), (130.0, {"epoch": 4, "validation_loss": 0.25})
    >>> describe("training", 10, (first, last), 50)[0]
    'training: epoch 4 of 10 at most, 10.0 s each, 60 s left at most, validation loss 0.2500'
    """
    fields = {"task": what, "unit": "epochs", "total": epochs, "elapsed_seconds": round(elapsed, 1)}
    if seen is None:
        nothing = {"done": 0, "rate": None, "eta_seconds": None}
        return f"{what}: the first epoch has not finished after {elapsed:.0f} s", fields | nothing
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
