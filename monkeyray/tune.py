"""The search job: many tops tried on features that are kept, the best one published as a bundle.

Ray Tune runs the trials and stops the bad ones early; the parameters are drawn beforehand, so that
they depend on the seed alone. The validation part chooses; the test part is looked at by the
training of the best, once.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monkeyray.backbones import import_keras
from monkeyray.cluster import capacity, wait_for_workers
from monkeyray.config import TrainConfig, TuneConfig
from monkeyray.dataset import Dataset
from monkeyray.errors import ClusterError, ConfigError, MonkeyRayError
from monkeyray.fit import CachedSource, Parts, State, fit
from monkeyray.progress import Advance, Reporter
from monkeyray.train import top_training, train
from monkeyray.trained import Trained
from monkeyray.trainer import TRAINING, training_place
from monkeyray.uris import join, normalise

Array = np.ndarray[Any, Any]

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


@dataclass(frozen=True)
class Choice:
    """What a trial tries; the names of TrainConfig."""

    head: str
    learning_rate: float
    l2: float
    top_seed: int


def tune(config: TuneConfig) -> Trained:
    """Search for the best top, train it as `train` does, and publish the bundle.

    What is tried depends on the seed alone. How far a trial gets depends on which others came
    before it, so that on several cores two searches may settle on different ones of near equals;
    the same options given to `train` make the same bundle as the search did.

    A search that was killed starts over, on the features that are there. Raises a MonkeyRayError
    that says what to change, as when every trial diverges.
    """
    return train(config, functools.partial(_search, config))


def choices(config: TuneConfig) -> list[Choice]:
    """What the trials try, by number: the heads in turn, the rest at random from the seed.

    The first one is what `train` does by default, if the linear head is among those to try. More
    trials begin with those of fewer.
    """
    found = []
    for number in range(config.trials):
        random = np.random.default_rng([config.seed, number])
        drawn = Choice(
            config.heads[number % len(config.heads)],
            _log_uniform(random, *config.learning_rate_range),
            _log_uniform(random, *config.l2_range),
            int(random.integers(1000)),
        )
        found.append(drawn)
    if "linear" in config.heads:
        default, _ = top_training(config.choose("linear", None, 0.0, config.seed), 2)
        found[0] = Choice("linear", default.learning_rate, default.l2, default.seed)
    return found


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    if low == high:
        return low
    # Rounded, so that it can be copied from a report and is still the same number.
    return float(f"{math.exp(random.uniform(math.log(low), math.log(high))):.3g}")


def _search(config: TuneConfig, data: Dataset) -> tuple[TrainConfig, dict[str, Any]]:
    """The training that was best on validation, and all trials in JSON's types."""
    start = time.monotonic()
    tried = choices(config)
    trials = [
        {"trial": number, **asdict(choice), **figures}
        for number, (choice, figures) in enumerate(
            zip(tried, _run_trials(config, data, tried), strict=True)
        )
    ]
    good = [trial for trial in trials if trial["ended"] in ("finished", "stopped")]
    if not good:
        raise _all_failed(config, trials)
    best = min(good, key=lambda trial: trial["validation_loss"])
    searched = {
        "best": best["trial"],
        "seconds": time.monotonic() - start,
        "heads": list(config.heads),
        "learning_rate_range": list(config.learning_rate_range),
        "l2_range": list(config.l2_range),
        "trials": trials,
    }
    return config.choose(**asdict(tried[best["trial"]])), searched


def _all_failed(config: TuneConfig, trials: list[dict[str, Any]]) -> MonkeyRayError:
    failed = [trial for trial in trials if trial["ended"] == "failed"]
    if failed:
        return ClusterError(
            f"none of the {len(trials)} trials came to an end, the first failed with "
            f"{failed[0]['error']}: the same command starts the search again on the features that "
            "are there, and --debug shows more"
        )
    low, high = config.learning_rate_range
    return ConfigError(
        f"all {len(trials)} trials diverged: lower --learning-rate-range (it is {low:g} {high:g})"
    )


def _run_trials(config: TuneConfig, data: Dataset, tried: list[Choice]) -> list[dict[str, Any]]:
    """How each trial ended, in their order."""
    import_keras()  # quietly, before Ray Tune loads TensorFlow
    import ray.tune
    from ray.tune.schedulers import ASHAScheduler

    assert data.vectors is not None
    uri, storage = normalise(config.model), config.store.storage()
    trainings = [config.choose(**asdict(choice)) for choice in tried]
    cores = max(1, capacity().cpus)
    wait_for_workers(1, False)
    # The features and labels go into Ray's object store, once for all trials.
    trainable = ray.tune.with_parameters(
        _trial,
        trainings=trainings,
        parts=data.parts,
        labels=len(data.labels),
        vectors=data.vectors.mean(axis=1),
    )
    filesystem, path = training_place(uri, storage)
    place = join(uri, TRAINING, _NAME)
    reporter = Reporter(config.store.quiet)
    try:
        with _environment(), reporter.bar("searching", "trials") as bar:
            storage.delete_tree(place)  # what a killed search has left
            tuner = ray.tune.Tuner(
                # Less than a core each, so that a busy cluster finds room.
                ray.tune.with_resources(trainable, {"CPU": 0.5}),
                param_space={"trial": ray.tune.grid_search(list(range(len(tried))))},
                tune_config=ray.tune.TuneConfig(
                    metric="validation_loss",
                    mode="min",
                    scheduler=ASHAScheduler(
                        time_attr="epoch",
                        max_t=config.epochs + _GRACE_EPOCHS,  # fit() itself ends at the last
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
                    callbacks=[_follow(len(tried), bar)],
                ),
            )
            # It prints what it is about to do, whatever `verbose` says.
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                results = tuner.fit()
    finally:
        storage.delete_tree(place)
    found: list[dict[str, Any]] = [_NOTHING | {"error": "an unknown fault"} for _ in tried]
    for result in results:
        found[result.config["trial"]] = _figures(result)
    return found


_NOTHING = {
    "ended": "failed",
    "epochs": 0,
    "best_epoch": None,
    "validation_loss": None,
    "validation_accuracy": None,
    "seconds": 0.0,
    "error": None,
}


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
    trainings: list[TrainConfig],
    parts: Parts,
    labels: int,
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
    fit_config, make_learner = top_training(trainings[options["trial"]], labels)
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
        state: State = fit(
            fit_config,
            make_learner(),
            parts,
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
