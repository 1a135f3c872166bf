"""Ray Train around the training loop: workers, checkpoints and results, on a cluster or, by its
local mode, in a process of this machine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monkeyray.arrays import Array
from monkeyray.console import Reporter, Say
from monkeyray.environment import environment
from monkeyray.errors import ClusterError, ConfigError, MissingError, MonkeyRayError
from monkeyray.model.backbones import Weights
from monkeyray.runs.cluster import map_in_tasks, run_in_fresh_process
from monkeyray.runs.processes import FunctionProcess, ProcessDiedError, map_in_processes
from monkeyray.runs.workers.worker_count import usable_cores, wait_for_workers
from monkeyray.storage.keys import fingerprint
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.fitting.worker import State, Training, Worker
from monkeyray.training.tracking.progress import ProgressFile, following
from monkeyray.training.tracking.tracker import Stage

#: The folder of a training in progress, below the model's place.
TRAINING = ".training"

_POLL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
#: Few enough to poll often.
_FEW_WORKERS = 16

#: How often workers are restarted before the job fails.
_FAILURES = 3

#: Checkpoints to keep. Workers of a killed driver may write one more, and the one that a resumed
#: training has read of must still exist.
_CHECKPOINTS = 2

#: The file of a checkpoint.
_STATE = "state.safetensors"


@dataclass(frozen=True)
class Task:
    """What every worker gets. `tracked`: where the epochs go. `name`: for the log."""

    training: Training
    tracked: Stage = field(default_factory=Stage)
    name: str = "training"


@dataclass(frozen=True)
class Outcome:
    """The best weights of a training by name, and its last state. `seconds`: time of the training
    itself, without Ray's start."""

    weights: Weights
    state: State
    seconds: float

    @property
    def figures(self) -> dict[str, Any]:
        """For the bundle's metrics."""
        return {
            "best_epoch": self.state.best_epoch,
            "epochs_run": self.state.epoch,
            "history": self.state.history,
            "resumed_from": self.state.resumed_from,
        }


class Trainer(Protocol):
    """Where a training runs."""

    @property
    def workers(self) -> int:
        """How many share a training."""

    def fit(
        self, task: Task, place: Location, name: str, storage: Storage, say: Say
    ) -> Outcome | MonkeyRayError:
        """Train, or continue from the checkpoint of this name below a model's place; returns the
        error of a training that diverged. Raises a MonkeyRayError."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a function, called in a process that then ends. Raises the MonkeyRayError
        that it raises, and ClusterError if its process was lost."""

    def share(self, array: Array) -> Array:
        """An array that is sent to processes by reference."""

    def map(
        self, function: Callable[[Any, Any], Any], items: Sequence[Any], shared: Any
    ) -> Generator[tuple[int, Any]]:
        """Call `function(item, shared)` for each item, each on one core. Yields each item's index
        and its result, or the exception it raised, as they end."""


def run_training(
    task: Task,
    identity: Any,
    place: Location,
    storage: Storage,
    trainer: Trainer,
    reporter: Reporter,
) -> Outcome:
    """Train, or continue from the checkpoint of a run with the same `identity`.

    `identity`: JSON of everything that decides the result except the settings of the loop and the
    number of workers. Raises a MonkeyRayError that says what to change.
    """
    # The same command has the same name, and so continues from the checkpoint there.
    name = fingerprint([asdict(task.training.config), identity, trainer.workers])[:16]
    progress = ProgressFile(storage, str(place / TRAINING / f"{name}.json"))
    trackers = (*task.tracked.trackers, progress)
    task = replace(task, tracked=replace(task.tracked, trackers=trackers))
    epochs, on_ray = task.training.config.epochs, isinstance(trainer, RayTrainer)
    with following(progress, task.name, str(place), epochs, reporter, metrics=on_ray):
        result = trainer.fit(task, place, name, storage, reporter.say)
    if isinstance(result, MonkeyRayError):
        storage.delete_tree(place / TRAINING / name)  # a resumed training would diverge again
        raise result
    return result


class MachineTrainer:
    """Ray Train's local mode in a process of this machine, without a cluster. The first process
    starts at once, while the caller reads its images.

    Local mode keeps no checkpoints and restarts nothing, so both are done here. `needed`: see
    FunctionProcess, for the first training.
    """

    workers = 1

    def __init__(self, debug: bool, needed: Sequence[str] = ()) -> None:
        self._debug = debug
        self._first: FunctionProcess | None = FunctionProcess(debug, needed)

    def close(self) -> None:
        """End the process that started ahead, if it was not used."""
        if self._first is not None:
            self._first.close()

    def _fresh(self) -> FunctionProcess:
        # TensorFlow's threads and determinism cannot be set again where it has run.
        process, self._first = self._first or FunctionProcess(self._debug), None
        return process

    def fit(
        self, task: Task, place: Location, name: str, storage: Storage, say: Say
    ) -> Outcome | MonkeyRayError:
        """See Trainer."""
        checkpoints = _FileCheckpoints(storage, place / TRAINING / name / _STATE)
        for _ in range(_FAILURES + 1):
            with self._fresh() as process:
                try:
                    result: Outcome | MonkeyRayError = process.call(_fit_here, task, checkpoints)
                    return result
                except ProcessDiedError as death:
                    last = death
        raise _failed(last, str(place / TRAINING / name))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See Trainer."""
        try:
            with FunctionProcess(self._debug) as process:
                return process.call(function, *arguments)
        except ProcessDiedError as death:
            raise ClusterError(
                f"the process of a step died ({death}); it may lack memory: run the same command "
                "again"
            ) from None

    def share(self, array: Array) -> Array:
        """See Trainer: its file is the reference."""
        return array

    def map(
        self, function: Callable[[Any, Any], Any], items: Sequence[Any], shared: Any
    ) -> Generator[tuple[int, Any]]:
        """See Trainer."""
        return map_in_processes(function, items, shared, usable_cores(), self._debug)


def _fit_here(task: Task, checkpoints: _FileCheckpoints) -> Outcome | MonkeyRayError:
    """Ray Train's local mode, which runs the worker in this process."""
    import ray.train
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    trainer = DataParallelTrainer(
        _worker,
        train_loop_config={"task": task, "checkpoints": checkpoints},
        scaling_config=ray.train.ScalingConfig(num_workers=0),
    )
    result: Outcome | MonkeyRayError = trainer.fit().return_value
    return result


@dataclass(frozen=True)
class RayTrainer:
    """Ray Train on the cluster that this process is connected to. `say` is called while there is no
    room for a step yet."""

    workers: int
    gpu: bool
    say: Say

    def fit(
        self, task: Task, place: Location, name: str, storage: Storage, say: Say
    ) -> Outcome | MonkeyRayError:
        """See Trainer."""
        import ray
        import ray.train

        # Not TensorflowTrainer, whose backend imports TensorFlow in the driver and in Ray's
        # controller.
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        from monkeyray.training.fitting.tf_config import WorkersCluster

        wait_for_workers(self.workers, self.gpu, say)
        filesystem, path = training_place(place, storage)
        trainer = DataParallelTrainer(
            _worker,
            train_loop_config={"task": ray.put(task), "checkpoints": _RayCheckpoints()},
            backend_config=WorkersCluster(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.workers,
                use_gpu=self.gpu,
                # Less than a core each, so that Ray Data's tasks find room.
                resources_per_worker={"CPU": 0.5, **({"GPU": 1} if self.gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=_FAILURES),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=_CHECKPOINTS),
            ),
        )
        # Ray polls workers every two seconds by default, and so notices late that they are ready.
        often = self.workers <= _FEW_WORKERS and _POLL not in os.environ
        try:
            with environment(**({_POLL: "0.25"} if often else {})):
                result: Outcome | MonkeyRayError = trainer.fit().return_value
                return result
        except Exception as error:
            raise training_error(error, str(place / TRAINING / name)) from error

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """See Trainer."""
        return run_in_fresh_process(self.say, function, *arguments)

    def share(self, array: Array) -> Array:
        """See Trainer: Ray copies it into its object store, since other nodes lack its file."""
        return array.view(np.ndarray)

    def map(
        self, function: Callable[[Any, Any], Any], items: Sequence[Any], shared: Any
    ) -> Generator[tuple[int, Any]]:
        """See Trainer."""
        return map_in_tasks(self.say, function, items, shared)


def training_place(place: Location, storage: Storage) -> tuple[Any, str]:
    """Where Ray Train writes below a model's place: pyarrow's file system, None for the local one,
    and the path there."""
    filesystem, path = storage.arrow(place / TRAINING)
    return (None if place.is_local else filesystem), path


def below(weights: Weights, prefix: str) -> Weights:
    """The weights whose names begin with `prefix` and a slash, without that prefix.

    >>> below({"head/0000": 1, "backbone/0000": 2}, "head")
    {'0000': 1}
    """
    start = f"{prefix}/"
    return {key[len(start) :]: value for key, value in weights.items() if key.startswith(start)}


def training_error(error: BaseException, place: str) -> BaseException:
    """The error to raise for a training that Ray Train aborted, in one line."""
    inner = [*getattr(error, "worker_failures", {}).values()]
    inner.append(getattr(error, "controller_failure", error))
    for each in inner:
        if isinstance(found := _cause(each), MonkeyRayError):
            return found
    return _failed(inner[0], place)


def _failed(last: BaseException, place: str) -> ClusterError:
    reason = next(iter(str(last).splitlines()), "")[:200]
    return ClusterError(
        f"the training failed {_FAILURES + 1} times, last with {type(last).__name__}: "
        f"{reason.rstrip('.')}; rerun the command to continue from the checkpoint in {place}, or "
        "add --debug to see more"
    )


def _cause(error: BaseException) -> BaseException:
    """The MonkeyRayError inside Ray's exceptions, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MonkeyRayError):
            return seen
        inner = getattr(seen, "cause", None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__
    return error


class _Checkpoints(Protocol):
    def load(self) -> State | None:
        """The last state saved."""

    def save(self, state: State, rank: int) -> None:
        """Save a state, on worker 0; called on all workers."""


@dataclass(frozen=True)
class _RayCheckpoints:
    """Ray Train's own, which it writes below the model's place."""

    def load(self) -> State | None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return State.from_bytes((Path(folder) / _STATE).read_bytes())

    def save(self, state: State, rank: int) -> None:
        import ray.train

        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                (Path(folder) / _STATE).write_bytes(state.to_bytes())
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(dict(state.history[-1]), checkpoint=checkpoint)


@dataclass(frozen=True)
class _FileCheckpoints:
    """The last state in a file, for Ray Train's local mode, which keeps none."""

    storage: Storage
    file: Location

    def load(self) -> State | None:
        try:
            return State.from_bytes(self.storage.read(self.file).data)
        except MissingError:
            return None

    def save(self, state: State, rank: int) -> None:
        self.storage.write(self.file, state.to_bytes())


def _worker(options: dict[str, Any]) -> Outcome | MonkeyRayError | None:
    """One Ray Train worker: restore, fit, return what worker 0 has found.

    Returns the error if the training diverged, on all workers alike: Ray Train would retry a worker
    that raises.
    """
    import ray
    import ray.train

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    checkpoints: _Checkpoints = options["checkpoints"]
    task = options["task"]
    if isinstance(task, ray.ObjectRef):
        task = ray.get(task)

    def save(state: State) -> None:
        log.flush()
        checkpoints.save(state, rank)

    resume = checkpoints.load()
    tracked = task.tracked if rank == 0 else Stage()
    log = tracked.open(resume.history if resume else ())
    start = time.monotonic()
    worker = Worker(
        rank,
        world,
        # Workers on one node share its cores.
        max(1, usable_cores() // context.get_local_world_size()),
        resume,
        save,
        log.add,
    )
    try:
        state, weights = task.training(worker)
    except ConfigError as error:
        return error
    seconds = time.monotonic() - start
    save(state)
    return Outcome(weights, state, seconds) if rank == 0 else None
