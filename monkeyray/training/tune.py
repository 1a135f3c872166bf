"""The search job: train many heads on cached features, and publish the best one as a bundle.

The trials are drawn from the seed in advance. The one with the lowest out-of-fold loss is trained
as `train` does; a given test split is used only there.
"""

from __future__ import annotations

import contextlib
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
from monkeyray.scoring.features import mean_views
from monkeyray.statistics.splits import Folds
from monkeyray.training.dataset import Dataset
from monkeyray.training.fitting.distributed import Trainer
from monkeyray.training.fitting.head import head_training
from monkeyray.training.fitting.linear import L2
from monkeyray.training.fitting.worker import Training, Worker
from monkeyray.training.job import Job
from monkeyray.training.options import TrainConfig, TuneConfig
from monkeyray.training.summary import Trained
from monkeyray.training.train import train_with

#: Makes a training from the folds and the features (n, width).
Maker = Callable[[Folds, Array], Training]

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
    """The settings of a trial, named as in TrainConfig. A linear head has only a penalty to try."""

    head: str
    learning_rate: float | None
    l2: float
    head_seed: int | None


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
        head = config.heads[number % len(config.heads)]
        rate = _log_uniform(random, *config.learning_rate_range)
        l2, seed = _log_uniform(random, *config.l2_range), int(random.integers(1000))
        linear = head == "linear"
        found.append(Choice(head, None if linear else rate, l2, None if linear else seed))
    if "linear" in config.heads:
        found[0] = Choice("linear", None, L2, None)
    return found


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    if low == high:
        return low
    # Rounded, so that a report shows the exact number.
    return float(f"{math.exp(random.uniform(math.log(low), math.log(high))):.3g}")


def _search(config: TuneConfig, job: Job, data: Dataset) -> tuple[TrainConfig, dict[str, Any]]:
    """The settings of the trial with the lowest out-of-fold loss, and all trials in JSON types."""
    start = time.monotonic()
    tried = choices(config)
    trainings = [config.choose(**asdict(choice)) for choice in tried]
    found = run_trials(
        # The fold heads alone are compared.
        [
            functools.partial(head_training, each, labels=len(data.labels), last=False)
            for each in trainings
        ],
        data.folds,
        job.trainer.share(mean_views(data.vectors)),
        job.trainer,
        job.reporter,
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
    makers: Sequence[Maker], folds: Folds, vectors: Array, trainer: Trainer, reporter: Reporter
) -> list[dict[str, Any]]:
    """Run each training on features of shape (n, width), on one core each.

    Returns how each ended, in their order and in JSON's types: `ended` (finished, diverged or
    failed), `epochs`, `best_epoch` with its `validation_loss` and `validation_accuracy`, `seconds`
    and `error`.
    """
    found: list[dict[str, Any]] = [_NOTHING for _ in makers]
    ended: Counter[str] = Counter()
    with (
        reporter.bar("searching", "trials") as advance,
        contextlib.closing(trainer.map(_trial, makers, (folds, vectors))) as results,
    ):
        for number, result in results:
            found[number] = figures = _failed(result) if isinstance(result, Exception) else result
            ended["ok" if figures["ended"] == "finished" else figures["ended"]] += 1
            advance(len(makers), dict(ended))
    return found


def _trial(maker: Maker, data: tuple[Folds, Array]) -> dict[str, Any]:
    """Run one trial, on one core, in a process that may have run others."""
    start = time.monotonic()
    try:
        state, _ = maker(*data)(Worker(threads=1))
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


def _failed(error: Exception) -> dict[str, Any]:
    """The figures of a trial that raised an error, or whose process died."""
    lines = str(error).strip().splitlines() or [""]
    return _NOTHING | {"error": f"{type(error).__name__}: {lines[-1][:200]}"}


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
