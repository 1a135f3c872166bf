"""The search job: many heads tried on features that are kept, the best one published as a bundle.

What is tried is drawn beforehand, so that it depends on the seed alone. The validation split
chooses; the test split is looked at by the training of the best, once.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monkeyray.errors import ClusterError, ConfigError, MonkeyRayError
from monkeyray.storage.location import normalise
from monkeyray.training.dataset import Dataset
from monkeyray.training.options import TrainConfig, TuneConfig
from monkeyray.training.train import head_training, train_with
from monkeyray.training.trained import Trained
from monkeyray.training.trials import run_trials


@dataclass(frozen=True)
class Choice:
    """What a trial tries; the names of TrainConfig."""

    head: str
    learning_rate: float
    l2: float
    head_seed: int


def tune(config: TuneConfig) -> Trained:
    """Search for the best head, train it as `train` does, and publish the bundle.

    What is tried depends on the seed alone. How far a trial gets depends on which others came
    before it, so that on several cores two searches may settle on different ones of near equals;
    the same options given to `train` make the same bundle as the search did.

    A search that was killed starts over, on the features that are there. Raises a MonkeyRayError
    that says what to change, as when every trial diverges.
    """
    return train_with(config, functools.partial(_search, config))


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
        default, _ = head_training(config.choose("linear", None, None, config.seed), 2)
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
    trainings = [config.choose(**asdict(choice)) for choice in tried]
    found = run_trials(
        [head_training(each, len(data.labels)) for each in trainings],
        data.splits,
        data.vectors.mean(axis=1),
        normalise(config.model),
        config.store.storage(),
        config.store.reporter(),
    )
    trials = [
        {"trial": number, **asdict(choice), **figures}
        for number, (choice, figures) in enumerate(zip(tried, found, strict=True))
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
    return trainings[best["trial"]], searched


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
