"""The figures of a training, epoch by epoch, in MLflow and in TensorBoard's event files.

The first worker writes them while it trains, and the driver what is missing in the end. A tracking
server that is away is tried again later and costs no training: what could not be written at last
is a warning.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from monkeyray.console import escape_control_line
from monkeyray.redact import masked, masked_anywhere
from monkeyray.runs.cluster import check_relative
from monkeyray.storage.keys import fingerprint
from monkeyray.storage.location import join, normalise
from monkeyray.storage.store import Storage
from monkeyray.training.event_files import EventFiles
from monkeyray.training.mlflow_runs import (
    LOCAL,
    MlflowRun,
    MlflowStage,
    check_mlflow,
    local_place,
    tracking_uri,
)
from monkeyray.training.options import TrainConfig

Figures = Mapping[str, Any]

#: The stages of a training in their order.
STAGES = ("head", "fine_tuning")

#: Epochs of cached features take milliseconds: they are sent together, so often at most.
_EVERY_SECONDS = 5.0
#: A place that failed is left alone for so long, and every time twice as long: a server that does
#: not answer holds up all workers for as long as MLflow waits.
_AGAIN_SECONDS = 60.0


class Sink(Protocol):
    """A place for the figures of one stage. All methods may raise anything."""

    def forget(self, after: int) -> None:
        """Take back the epochs after this one, which are trained once more, where that is how the
        place is kept."""

    def last(self) -> int:
        """The last epoch that is there, -1 for none."""

    def write(self, epochs: Sequence[tuple[float, Figures]]) -> None:
        """Add epochs, each with its time in seconds since 1970, all of them or none."""


@dataclass
class _Pen:
    sink: Sink
    forgotten: bool = False
    written: int | None = None
    next_try: float = 0.0
    failures: int = 0
    problem: str | None = None


class EpochLog:
    """Writes each epoch of one stage once into every sink, whatever becomes of the sinks."""

    def __init__(
        self, sinks: Iterable[Sink], history: Iterable[Figures] = (), *, aloud: bool = True
    ) -> None:
        """`history`: the epochs before, of which a sink may lack some. `aloud`: whether a problem
        is printed at once."""
        self._aloud = aloud
        now = time.time()
        self._epochs = [(now, figures) for figures in history]
        self._start = int(self._epochs[-1][1]["epoch"]) if self._epochs else -1
        self._pens = [_Pen(sink) for sink in sinks]

    def add(self, figures: Figures) -> None:
        """Take an epoch, and write it soon."""
        self._epochs.append((time.time(), figures))
        for pen in self._pens:
            if time.monotonic() >= pen.next_try:
                self._write(pen)

    def flush(self) -> list[str]:
        """Write all epochs but where that has failed a moment ago; returns what could not be
        done."""
        for pen in self._pens:
            if pen.problem is None or time.monotonic() >= pen.next_try:
                self._write(pen)
        return [pen.problem for pen in self._pens if pen.problem is not None]

    def _write(self, pen: _Pen) -> None:
        try:
            if not pen.forgotten:
                pen.sink.forget(self._start)
                pen.forgotten = True
            if pen.written is None:
                pen.written = pen.sink.last()
            new = [each for each in self._epochs if each[1]["epoch"] > pen.written]
            if new:
                pen.sink.write(new)
                pen.written = int(new[-1][1]["epoch"])
        except Exception as error:  # whatever a server makes of it, the training goes on
            # What was sent may have arrived all the same.
            pen.written = None
            pen.problem = f"{pen.sink}: {_brief(error)}"
            pen.next_try = time.monotonic() + _AGAIN_SECONDS * 2**pen.failures
            pen.failures += 1
            if self._aloud:
                print(escape_control_line(f"warning: {pen.problem}"), file=sys.stderr, flush=True)
        else:
            pen.problem, pen.failures = None, 0
            pen.next_try = time.monotonic() + _EVERY_SECONDS


@dataclass(frozen=True)
class Stage:
    """Where the figures of one stage go: what travels to the first worker."""

    sinks: tuple[Sink, ...] = ()

    def open(self, history: Iterable[Figures] = (), *, aloud: bool = True) -> EpochLog:
        """Begin, or go on after the epochs of `history`. `aloud`: see EpochLog."""
        return EpochLog(self.sinks, history, aloud=aloud)


class Tracking:
    """The driver's side: a context for one training, which ends its run when it breaks off."""

    def __init__(self, config: TrainConfig, storage: Storage, say: Callable[[str], None]) -> None:
        """Raises a MonkeyRayError for what cannot work, before anything is done."""
        self._config, self._storage, self._say = config, storage, say
        #: What is written to, by option.
        self.places: dict[str, str] = {}
        self._run: MlflowRun | None = None
        self._name = self._key = ""
        self._parameters: Mapping[str, Any] = {}
        if config.tensorboard is not None:
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
        """Open the run, or the one that was broken off. `identity`: JSON of what makes it this
        training."""
        config = self._config
        self._key = fingerprint([identity, parameters, normalise(config.model)])[:32]
        self._name = f"{config.backbone}-{self._key[:8]}"
        self._parameters = parameters
        if "tensorboard" in self.places:
            self._say(f"TensorBoard: event files of {self._name} in {self.places['tensorboard']}")
        if problems := self._open_run():
            self._say(f"warning: {problems[0]}; it is tried again when the training is done")

    def stage(self, name: str) -> Stage:
        """Where the figures of one of STAGES go."""
        sinks: list[Sink] = []
        if "tensorboard" in self.places:
            place = join(self.places["tensorboard"], self._name)
            # A store that is away must not hold up the workers; what is missing is written later.
            hasty = self._storage.hasty()
            sinks.append(EventFiles(hasty, place, name, STAGES.index(name)))
        if self._run is not None:
            sinks.append(MlflowStage(self._run, name))
        return Stage(tuple(sinks))

    def finish(self, model: Mapping[str, Any], files: Mapping[str, str]) -> None:
        """Complete what is there, add the test split's figures, and end the run.

        `model`: the content of model.json; `files`: texts by name to keep with the run.
        """
        metrics = model["metrics"]
        histories = {"head": metrics["history"]}
        if metrics["fine_tuning"] is not None:
            histories["fine_tuning"] = metrics["fine_tuning"]["history"]
        problems = self._open_run()
        for name, history in histories.items():
            problems += self.stage(name).open(history, aloud=False).flush()
        if self._run is not None:
            splits = {split: metrics[split] for split in ("test", "validation")}
            run, figures = self._run, dict(_numbers(splits))
            problems += self._mlflow(lambda: run.finish(figures, model["model_id"], files))
        for problem in problems:
            self._say(f"warning: not all is tracked: {problem}; the model has all figures")

    def _open_run(self) -> list[str]:
        config = self._config
        if config.mlflow is None or self._run is not None:
            return []
        uri = tracking_uri(config.mlflow)

        def begin() -> None:
            self._run = MlflowRun.begin(
                uri, config.mlflow_experiment, self._name, self._key, dict(_flat(self._parameters))
            )
            self._say(f"MLflow: run {self._name} of {config.mlflow_experiment} in {masked(uri)}")

        return self._mlflow(begin)

    def _mlflow(self, act: Callable[[], None]) -> list[str]:
        try:
            act()
        except Exception as error:  # whatever a server makes of it, the model is what counts
            return [f"MLflow at {masked(str(self._config.mlflow))}: {_brief(error)}"]
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        run = self._run
        if kind is not None and run is not None:
            self._mlflow(lambda: run.end("FAILED" if issubclass(kind, Exception) else "KILLED"))


def _brief(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "")
    return masked_anywhere(f"{type(error).__name__}: {line}")[:300]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values under names with slashes.

    >>> dict(_flat({"a": 1, "b": {"c": None}}))
    {'a': 1, 'b/c': None}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in _flat(values):
        if isinstance(value, (int, float)):
            yield key, float(value)
