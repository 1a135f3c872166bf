"""The search job: train many heads on cached features, and publish the best one as a bundle.

The trials are drawn beforehand from the seed. The validation split chooses among them; the test
split is used once, by the training of the best.
"""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.console import Reporter
from monkeyray.errors import ClusterError, ConfigError, MonkeyRayError
from monkeyray.model.backbones import import_keras
from monkeyray.runs.worker_count import wait_for_workers
from monkeyray.training.dataset import Dataset
from monkeyray.training.head import head_training
from monkeyray.training.loop import CachedSource, FitConfig, Learner, Splits, fit
from monkeyray.training.options import TrainConfig, TuneConfig
from monkeyray.training.summary import Trained
from monkeyray.training.train import train_with

#: A head's training settings and its factory.
Training = tuple[FitConfig, Callable[[], Learner]]

#: How often a trial whose process died starts again.
_RETRIES = 2

#: A failed trial.
_NOTHING = {
    "ended": "failed",
    "epochs": 0,
    "best_epoch": None,
    "validation_loss": None,
    "validation_accuracy": None,
    "seconds": 0.0,
    "error": None,
}


@dataclass(frozen=True)
class Choice:
    """What a trial tries; the names of TrainConfig."""

    head: str
    learning_rate: float
    l2: float
    head_seed: int


def tune(config: TuneConfig) -> Trained:
    """Search for the best head, train it as `train` does, and publish the bundle.

    The same options give the same result, and `train` with the options of the best trial gives the
    same bundle. A search that was interrupted starts again, on the cached features. Raises a
    MonkeyRayError that says what to change, for example when every trial diverges.
    """
    return train_with(config, functools.partial(_search, config))


def choices(config: TuneConfig) -> list[Choice]:
    """The trials in order: the heads in turn, the rest drawn from the seed.

    The first one is the default of `train` if the linear head is among the heads. A longer search
    begins with the trials of a shorter one.
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
        default, _ = head_training(config.choose("linear", None, None, config.seed), 2)
        found[0] = Choice("linear", default.learning_rate, default.l2, default.seed)
    return found


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    if low == high:
        return low
    # Rounded, so that a report shows the exact number.
    return float(f"{math.exp(random.uniform(math.log(low), math.log(high))):.3g}")


def _search(config: TuneConfig, data: Dataset) -> tuple[TrainConfig, dict[str, Any]]:
    """The training that was best on validation, and all trials in JSON's types."""
    start = time.monotonic()
    tried = choices(config)
    trainings = [config.choose(**asdict(choice)) for choice in tried]
    found = run_trials(
        [head_training(each, len(data.labels)) for each in trainings],
        data.splits,
        data.vectors.mean(axis=1),
        config.store.reporter(),
    )
    trials = [
        {"trial": number, **asdict(choice), **figures}
        for number, (choice, figures) in enumerate(zip(tried, found, strict=True))
    ]
    finished = [trial for trial in trials if trial["ended"] == "finished"]
    if not finished:
        raise _all_failed(config, trials)
    best = min(finished, key=lambda trial: trial["validation_loss"])
    searched = {
        "best": best["trial"],
        "seconds": time.monotonic() - start,
        "heads": list(config.heads),
        "learning_rate_range": list(config.learning_rate_range),
        "l2_range": list(config.l2_range),
        "trials": trials,
    }
    return trainings[best["trial"]], searched


def run_trials(
    trainings: Sequence[Training], splits: Splits, vectors: Array, reporter: Reporter
) -> list[dict[str, Any]]:
    """Run each training on features of shape (n, width), a Ray task with one core each.

    Returns how each ended, in their order and in JSON's types: `ended` (finished, diverged or
    failed), `epochs`, `best_epoch` with its `validation_loss` and `validation_accuracy`, `seconds`
    and `error`.
    """
    import ray

    wait_for_workers(1, False, reporter.say)
    data = ray.put((splits, vectors))
    trial = ray.remote(num_cpus=1, max_retries=_RETRIES)(_trial)
    found: list[dict[str, Any]] = [_NOTHING for _ in trainings]
    ended: Counter[str] = Counter()
    with reporter.bar("searching", "trials") as advance:
        tasks = {trial.remote(training, data): i for i, training in enumerate(trainings)}
        waiting = list(tasks)
        while waiting:
            done, waiting = ray.wait(waiting)
            for task in done:
                found[tasks[task]] = figures = _result(task)
                ended["ok" if figures["ended"] == "finished" else figures["ended"]] += 1
            advance(len(trainings), dict(ended))
    return found


def _trial(training: Training, data: tuple[Splits, Array]) -> dict[str, Any]:
    """One trial, in a process that may have run others."""
    start = time.monotonic()
    import_keras()
    import tensorflow as tf

    # One core for each trial, and the same sums in the same order.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    (fit_config, make_learner), (splits, vectors) = training, data
    try:
        strategy = tf.distribute.get_strategy()
        state = fit(fit_config, make_learner(), splits, CachedSource(vectors), strategy=strategy)
    except ConfigError as error:
        found: dict[str, Any] = {"ended": "diverged", "error": str(error)}
    else:
        best = state.history[state.best_epoch - 1]
        found = {
            "ended": "finished",
            "epochs": state.epoch,
            "best_epoch": state.best_epoch,
            "validation_loss": float(best["validation_loss"]),
            "validation_accuracy": float(best["validation_accuracy"]),
        }
    return _NOTHING | found | {"seconds": time.monotonic() - start}


def _result(task: Any) -> dict[str, Any]:
    """What a task returned, or its error as figures."""
    import ray

    try:
        figures: dict[str, Any] = ray.get(task)
        return figures
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        lines = str(cause).strip().splitlines() or [""]
        return _NOTHING | {"error": f"{type(cause).__name__}: {lines[-1][:200]}"}


def _all_failed(config: TuneConfig, trials: list[dict[str, Any]]) -> MonkeyRayError:
    failed = [trial for trial in trials if trial["ended"] == "failed"]
    if failed:
        return ClusterError(
            f"none of the {len(trials)} trials finished, the first failed with "
            f"{failed[0]['error']}: rerun the command to search again on the cached features; "
            "--debug shows more"
        )
    low, high = config.learning_rate_range
    return ConfigError(
        f"all {len(trials)} trials diverged: lower --learning-rate-range (it is {low:g} {high:g})"
    )
