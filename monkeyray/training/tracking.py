"""Follow a training epoch by epoch, in TensorBoard and MLflow.

The first worker writes while it trains, and the driver adds what is missing at the end. A place
that cannot be reached is retried later; it never stops a training, and figures that could not be
written at last are a warning.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from monkeyray.console import escape_control_line
from monkeyray.redact import masked_anywhere
from monkeyray.runs.cluster import check_relative
from monkeyray.storage.keys import fingerprint
from monkeyray.storage.location import join, normalise
from monkeyray.storage.store import Storage
from monkeyray.training.mlflow import LOCAL, MlflowRun, check_mlflow, local_place, tracking_uri
from monkeyray.training.options import TrainConfig
from monkeyray.training.tensorboard import EventFiles, check_tensorboard

Figures = Mapping[str, Any]

#: When an epoch ended, in seconds since 1970, and its figures.
Epoch = tuple[float, Figures]

#: Epochs on cached features take milliseconds, so they are sent together.
_EVERY_SECONDS = 5.0
#: How long to leave a failed place alone, doubled each time: all workers wait for its timeout.
_AGAIN_SECONDS = 60.0


class Tracker(Protocol):
    """A place for the figures of one training; it is pickled to the first worker. `stage`: head or
    fine_tuning. All methods may raise anything."""

    def begin(self) -> str:
        """Open the run, or continue the interrupted one; returns a line that says where."""

    def last(self, stage: str) -> int:
        """The last epoch that is there, -1 for none."""

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
            pen.problem = _problem(pen.tracker, error)
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


class Tracking:
    """The driver's side: a context for one training, which ends its run if an error leaves it."""

    def __init__(self, config: TrainConfig, storage: Storage, say: Callable[[str], None]) -> None:
        """Raises a MonkeyRayError for options that cannot work, before anything is done."""
        self._config, self._storage, self._say = config, storage, say
        #: The folders that are written to, by option.
        self.places: dict[str, str] = {}
        self._waiting: list[Tracker] = []
        self._open: list[Tracker] = []
        if config.tensorboard is not None:
            check_tensorboard()
            below_model = config.tensorboard == "model"
            place = join(config.model, "tensorboard") if below_model else config.tensorboard
            self.places["tensorboard"] = place
        if config.mlflow is not None:
            check_mlflow(config.mlflow)
            if local_place(config.mlflow) is not None:
                self.places["mlflow"] = LOCAL if config.mlflow == "local" else config.mlflow
        for option, place in self.places.items():
            check_relative(option, place)
            self.places[option] = normalise(place)
            storage.check_writable(self.places[option])

    def begin(self, identity: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
        """Open the run, or continue the interrupted one. `identity`: JSON that identifies this
        training."""
        config = self._config
        key = fingerprint([identity, parameters, normalise(config.model)])[:32]
        name = f"{config.backbone}-{key[:8]}"
        if "tensorboard" in self.places:
            # An unreachable store must not hold up the workers; the driver retries at the end.
            place = join(self.places["tensorboard"], name)
            self._waiting.append(EventFiles(self._storage.hasty(), place))
        if config.mlflow is not None:
            uri, experiment = tracking_uri(config.mlflow), config.mlflow_experiment
            self._waiting.append(MlflowRun(uri, experiment, name, key, parameters))
        for problem in self._begin():
            self._say(f"warning: {problem}; it is tried again when the training is done")

    def stage(self, name: str) -> Stage:
        """Where the figures of a stage go."""
        return Stage(name, tuple(self._open))

    def finish(self, model: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Add the epochs that are missing and the final figures, and end the run.

        `model`: the content of model.json; `files`: texts by name to keep with the run.
        """
        problems = self._begin()
        metrics = model["metrics"]
        histories = {"head": metrics["history"]}
        if metrics["fine_tuning"] is not None:
            histories["fine_tuning"] = metrics["fine_tuning"]["history"]
        for name, history in histories.items():
            problems += self.stage(name).open(history, aloud=False).flush()
        for tracker in self._open:
            problems += _attempt(tracker, lambda each: each.finish(model, files))
        for problem in problems:
            self._say(f"warning: not all is tracked: {problem}; the model has all figures")

    def _begin(self) -> list[str]:
        """Open the trackers that are not open yet; returns the problems."""

        def begin(tracker: Tracker) -> None:
            self._say(tracker.begin())
            self._open.append(tracker)

        problems: list[str] = []
        for tracker in self._waiting:
            problems += _attempt(tracker, begin)
        self._waiting = [each for each in self._waiting if each not in self._open]
        return problems

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"
            for tracker in self._open:
                _attempt(tracker, lambda each: each.interrupt(status))


def _attempt(tracker: Tracker, act: Callable[[Tracker], None]) -> list[str]:
    try:
        act(tracker)
    except Exception as error:  # the model is what counts, whatever the server raises
        return [_problem(tracker, error)]
    return []


def _problem(tracker: object, error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "")
    return f"{tracker}: {masked_anywhere(f'{type(error).__name__}: {line}')[:300]}"
