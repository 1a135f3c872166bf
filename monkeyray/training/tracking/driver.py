"""The driver's side of tracking: TensorBoard and MLflow as the options ask for them.

A place that cannot be reached never stops a training; the driver adds at the end what the worker
could not write, and figures that could not be written at last are a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from monkeyray.runs.cluster import check_relative
from monkeyray.storage.keys import fingerprint
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.options import TrainConfig
from monkeyray.training.tracking.mlflow import (
    LOCAL,
    MlflowRun,
    check_mlflow,
    local_place,
    tracking_uri,
)
from monkeyray.training.tracking.tensorboard import EventFiles, check_tensorboard
from monkeyray.training.tracking.tracker import Stage, Tracker, problem_of


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
            below = f"{config.model.rstrip('/')}/tensorboard"
            place = below if config.tensorboard == "model" else config.tensorboard
            self.places["tensorboard"] = place
        if config.mlflow is not None:
            check_mlflow(config.mlflow)
            if local_place(config.mlflow) is not None:
                self.places["mlflow"] = LOCAL if config.mlflow == "local" else config.mlflow
        for option, place in self.places.items():
            check_relative(option, place)
            self.places[option] = str(Location.parse(place))
            storage.check_writable(self.places[option])

    def begin(self, identity: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
        """Open the run, or continue the interrupted one. `identity`: JSON that identifies this
        training."""
        config = self._config
        key = fingerprint([identity, parameters, str(Location.parse(config.model))])[:32]
        name = f"{config.backbone.rsplit('/', 1)[-1].removesuffix('.onnx')}-{key[:8]}"
        if "tensorboard" in self.places:
            # An unreachable store must not hold up the workers; the driver retries at the end.
            place = f"{self.places['tensorboard']}/{name}"
            self._waiting.append(EventFiles(self._storage.hasty(), place))
        if config.mlflow is not None:
            uri, experiment = tracking_uri(config.mlflow), config.mlflow_experiment
            self._waiting.append(MlflowRun(uri, experiment, name, key, parameters))
        for problem in self._begin():
            self._say(f"warning: {problem}; it will be tried again when training ends")

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
            self._say(f"warning: tracking is incomplete: {problem}; the model has all figures")

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
        return [problem_of(tracker, error)]
    return []
