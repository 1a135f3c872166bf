"""Ray Tune around the training loop: many heads tried on one set of features, bad ones stopped."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from monkeyray.arrays import Array
from monkeyray.console import Advance, Reporter
from monkeyray.errors import ConfigError
from monkeyray.model.backbones import import_keras
from monkeyray.runs.cluster import capacity, wait_for_workers
from monkeyray.storage.location import join
from monkeyray.storage.store import Storage
from monkeyray.training.distributed import TRAINING, training_place
from monkeyray.training.loop import CachedSource, FitConfig, Learner, Splits, fit

#: How a head is trained, and what makes it.
Training = tuple[FitConfig, Callable[[], Learner]]

#: No trial is stopped before this epoch, and then only the best third of those that came as far
#: goes on, to three times as many epochs (ASHA, Li et al. 2020, arXiv:1810.05934).
_GRACE_EPOCHS = 5
_KEEP_ONE_OF = 3

#: So often a trial whose process died starts anew.
_FAILURES = 2

_NAME = "search"

_ENVIRONMENT = {
    # No progress files nobody reads, no change of folder, and an interrupt that is one.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

_NOTHING = {
    "ended": "failed",
    "epochs": 0,
    "best_epoch": None,
    "validation_loss": None,
    "validation_accuracy": None,
    "seconds": 0.0,
    "error": None,
}


def run_trials(
    trainings: Sequence[Training],
    splits: Splits,
    vectors: Array,
    uri: str,
    storage: Storage,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Try each training on features of shape (n, width), as many at a time as there are cores.

    Returns how each ended, in JSON's types and in their order: `ended` (finished, stopped early,
    diverged or failed), `epochs`, `best_epoch` with its `validation_loss` and
    `validation_accuracy`, `seconds` and `error`. `uri`: the model's place, below which Ray Tune
    keeps its files until the end.
    """
    import_keras()  # quietly, before Ray Tune loads TensorFlow
    import ray.tune
    from ray.tune.schedulers import ASHAScheduler

    cores = max(1, capacity().cpus)
    wait_for_workers(1, False, reporter.say)
    # The features and labels go into Ray's object store, once for all trials.
    trainable = ray.tune.with_parameters(
        _trial,
        trainings=list(trainings),
        splits=splits,
        vectors=vectors,
    )
    filesystem, path = training_place(uri, storage)
    place = join(uri, TRAINING, _NAME)
    try:
        with _environment(), reporter.bar("searching", "trials") as bar:
            storage.delete_tree(place)  # what a killed search has left
            tuner = ray.tune.Tuner(
                # Less than a core each, so that a busy cluster finds room.
                ray.tune.with_resources(trainable, {"CPU": 0.5}),
                param_space={"trial": ray.tune.grid_search(list(range(len(trainings))))},
                tune_config=ray.tune.TuneConfig(
                    metric="validation_loss",
                    mode="min",
                    scheduler=ASHAScheduler(
                        time_attr="epoch",
                        # fit() itself ends a training with its last epoch.
                        max_t=max(each.epochs for each, _ in trainings) + _GRACE_EPOCHS,
                        grace_period=_GRACE_EPOCHS,
                        reduction_factor=_KEEP_ONE_OF,
                    ),
                    max_concurrent_trials=cores,
                    reuse_actors=True,  # or every trial would load TensorFlow
                    trial_dirname_creator=lambda trial: f"trial-{trial.config['trial']}",
                ),
                run_config=ray.tune.RunConfig(
                    name=_NAME,
                    storage_path=path,
                    storage_filesystem=filesystem,
                    verbose=0,
                    failure_config=ray.tune.FailureConfig(max_failures=_FAILURES),
                    callbacks=[_follow(len(trainings), bar)],
                ),
            )
            # It prints what it is about to do, whatever `verbose` says.
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                results = tuner.fit()
    finally:
        storage.delete_tree(place)
    found: list[dict[str, Any]] = [_NOTHING | {"error": "an unknown fault"} for _ in trainings]
    for result in results:
        found[result.config["trial"]] = _figures(result)
    return found


def _figures(result: Any) -> dict[str, Any]:
    """A trial of Ray Tune in our words."""
    metrics = result.metrics or {}
    seconds = {"seconds": float(metrics.get("time_total_s", 0.0))}
    if result.error is not None:
        lines = str(result.error).strip().splitlines() or [""]
        error = f"{type(result.error).__name__}: {lines[-1][:200]}"
        return _NOTHING | seconds | {"error": error}
    if metrics["ended"] == "diverged":
        return _NOTHING | seconds | {"ended": "diverged", "error": metrics["error"]}
    return (
        _NOTHING
        | seconds
        | {
            # Only fit() can say that a trial has finished; another one was stopped.
            "ended": metrics["ended"] or "stopped",
            "epochs": int(metrics["epoch"]),
            "best_epoch": int(metrics["best_epoch"]),
            "validation_loss": float(metrics["validation_loss"]),
            "validation_accuracy": float(metrics["validation_accuracy"]),
        }
    )


def _trial(
    options: dict[str, Any],
    trainings: list[Training],
    splits: Splits,
    vectors: Array,
) -> None:
    """One trial, in a process that may have run others: fit, and report every epoch.

    A training that diverges reports so: what it raised would cost the process.
    """
    import_keras()
    import ray.tune
    import tensorflow as tf

    # A trial a core, and the same sums in the same order.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    fit_config, make_learner = trainings[options["trial"]]
    best: dict[str, Any] = {"validation_loss": math.inf}

    def report(figures: dict[str, Any], epoch: int, ended: str = "", error: str = "") -> None:
        ray.tune.report(
            {
                "epoch": epoch,
                "best_epoch": figures.get("epoch", 0),
                # The lowest so far: a trial that overfits is no worse for what it found.
                "validation_loss": figures["validation_loss"],
                "validation_accuracy": figures.get("validation_accuracy", 0.0),
                "ended": ended,
                "error": error,
            }
        )

    def on_epoch(figures: dict[str, Any]) -> None:
        nonlocal best
        best = min(best, figures, key=lambda each: each["validation_loss"])
        report(best, figures["epoch"])

    try:
        state = fit(
            fit_config,
            make_learner(),
            splits,
            CachedSource(vectors),
            strategy=tf.distribute.get_strategy(),
            on_epoch=on_epoch,
        )
    except ConfigError as error:
        # Epoch 0, so that the scheduler compares no other trial with it.
        report({"validation_loss": math.inf}, 0, "diverged", str(error))
        return
    report(state.history[state.best_epoch - 1], state.epoch, "finished")


def _follow(total: int, advance: Advance) -> Any:
    """What counts the trials that have ended, for the progress line."""
    import ray.tune

    class Follower(ray.tune.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self._ended: Counter[str] = Counter()

        def _count(self, how: str) -> None:
            self._ended[how] += 1
            advance(total, dict(self._ended))

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            ended = trial.last_result.get("ended") or "stopped"
            self._count("ok" if ended == "finished" else ended)

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            self._count("failed")

    return Follower()


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Ray Tune's settings that it has no arguments for, put back afterwards."""
    _hand_no_credentials()
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _hand_no_credentials() -> None:
    """Keep Ray Tune from handing this process's AWS keys to the trials.

    They have those of their node, as all workers do, and Ray logs what it hands.
    """
    from ray.tune.execution import class_cache

    handed = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in handed if not name.startswith("AWS_")}
