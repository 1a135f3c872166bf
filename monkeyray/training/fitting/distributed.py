"""Ray Train around the training loop: workers, checkpoints and results."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from monkeyray.console import Reporter
from monkeyray.environment import environment
from monkeyray.errors import ClusterError, ConfigError, MonkeyRayError
from monkeyray.model.backbones import Weights
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

#: How often Ray Train restarts the workers before the job fails.
_FAILURES = 3

#: Checkpoints to keep. Workers of a killed driver may write one more, and the one that a resumed
#: training has read of must still exist.
_CHECKPOINTS = 2


@dataclass(frozen=True)
class Task:
    """What every Ray Train worker gets. `tracked`: where the epochs go. `name`: for the log."""

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


def run_training(
    task: Task,
    identity: Any,
    place: Location,
    storage: Storage,
    workers: int,
    gpu: bool,
    reporter: Reporter,
) -> Outcome:
    """Train with Ray Train, or continue from the checkpoint of a run with the same `identity`.

    `identity`: JSON of everything that decides the result except the settings of the loop and the
    number of workers. Raises a MonkeyRayError that says what to change.
    """
    import ray
    import ray.train

    # Not TensorflowTrainer, whose backend imports TensorFlow in the driver and in Ray's controller.
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from safetensors.numpy import load_file

    from monkeyray.training.fitting.tf_config import WorkersCluster

    wait_for_workers(workers, gpu, reporter.say)
    filesystem, path = training_place(place, storage)
    # The same command has the same name, and so continues from the checkpoint there.
    name = fingerprint([asdict(task.training.config), identity, workers])[:16]
    progress = ProgressFile(storage, str(place / TRAINING / f"{name}.json"))
    trackers = (*task.tracked.trackers, progress)
    task = replace(task, tracked=replace(task.tracked, trackers=trackers))
    trainer = DataParallelTrainer(
        _worker,
        train_loop_config={"task": ray.put(task)},
        backend_config=WorkersCluster(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            # Less than a core each, so that Ray Data's tasks find room.
            resources_per_worker={"CPU": 0.5, **({"GPU": 1} if gpu else {})},
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
    often = {_POLL: "0.25"} if workers <= _FEW_WORKERS and _POLL not in os.environ else {}
    try:
        with (
            environment(**often),
            following(progress, task.name, str(place), task.training.config.epochs, reporter),
        ):
            result = trainer.fit()
    except Exception as error:
        raise training_error(error, str(place / TRAINING / name)) from error
    if result.return_value is not None:
        storage.delete_tree(place / TRAINING / name)  # a resumed training would diverge again
        raise result.return_value
    with result.checkpoint.as_directory() as folder:
        state = State.load(Path(folder))
        arrays = load_file(Path(folder) / "result.safetensors")
    seconds = float(arrays.pop("seconds")[0])
    return Outcome(arrays, state, seconds)


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
    reason = next(iter(str(inner[0]).splitlines()), "")[:200]
    return ClusterError(
        f"the training failed {_FAILURES + 1} times, last with {type(inner[0]).__name__}: "
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


def _worker(options: dict[str, Any]) -> MonkeyRayError | None:
    """One Ray Train worker: restore, fit, report.

    Returns the error if the training diverged, on all workers alike: Ray Train would retry a worker
    that raises.
    """
    import ray
    import ray.train
    from safetensors.numpy import save_file

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    task: Task = ray.get(options["task"])

    def report(state: State, extra: dict[str, Any] | None = None) -> None:
        metrics = dict(state.history[-1])
        if rank != 0:
            ray.train.report(metrics)
            return
        log.flush()
        with tempfile.TemporaryDirectory() as folder:
            state.save(Path(folder))
            if extra is not None:
                save_file(extra, Path(folder) / "result.safetensors")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    resume = None
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            resume = State.load(Path(folder))
    tracked = task.tracked if rank == 0 else Stage()
    log = tracked.open(resume.history if resume else ())
    start = time.monotonic()
    worker = Worker(
        rank,
        world,
        # Workers on one node share its cores.
        max(1, usable_cores() // context.get_local_world_size()),
        resume,
        report,
        log.add,
    )
    try:
        state, weights = task.training(worker)
    except ConfigError as error:
        return error
    found = {key: np.ascontiguousarray(value) for key, value in weights.items()}
    report(state, {**found, "seconds": np.array([time.monotonic() - start])})
    return None
