"""The search: what it tries, how trials end, and the bundle of the best."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import monkeyray.training.tune
from monkeyray.console import Reporter
from monkeyray.errors import ClusterError, ConfigError
from monkeyray.options import StoreConfig
from monkeyray.statistics.splits import Folds
from monkeyray.training.fitting.distributed import MachineTrainer
from monkeyray.training.fitting.worker import Training
from monkeyray.training.options import TrainConfig, TuneConfig
from monkeyray.training.summary import Trained
from monkeyray.training.tune import choices, run_trials, tune

QUIET = StoreConfig(quiet=True)


def config(**options: Any) -> TuneConfig:
    return TuneConfig(**({"images": "i", "model": "m"} | options))


@pytest.fixture
def options(trained: Trained, few: Path, tmp_path: Path) -> dict[str, Any]:
    """On the features that the first model was trained on."""
    return {
        "images": str(few),
        "model": str(tmp_path / "model"),
        "features": f"{trained.uri}/features",
        "store": QUIET,
    }


@given(
    seed=st.integers(0, 2**32 - 1),
    trials=st.integers(1, 40),
    heads=st.lists(st.sampled_from(["linear", "8", "16,8"]), min_size=1, max_size=4),
    low=st.floats(1e-9, 1.0),
    factor=st.floats(1.0, 1e6),
)
def test_trials_follow_from_the_options(
    seed: int, trials: int, heads: list[str], low: float, factor: float
) -> None:
    options = {"seed": seed, "heads": tuple(heads), "learning_rate_range": (low, low * factor)}
    found = choices(config(trials=trials, **options))
    assert found == choices(config(trials=trials, **options))
    assert len(found) == trials
    # A longer search begins like a shorter one.
    assert choices(config(trials=trials + 3, **options))[:trials] == found
    start = 0
    if "linear" in heads:
        start = 1
        assert asdict(found[0]) == {
            "head": "linear", "learning_rate": None, "l2": 10.0, "head_seed": None
        }  # fmt: skip
    for number, choice in enumerate(found[start:], start):
        assert choice.head == heads[number % len(heads)]
        # They have three digits.
        assert 0.1 * 0.99 <= choice.l2 <= 1000 * 1.01
        assert (choice.learning_rate is None) == (choice.head == "linear")
        if choice.learning_rate is not None:
            assert low * 0.99 <= choice.learning_rate <= low * factor * 1.01


def test_another_seed_tries_others() -> None:
    first, second = (choices(config(trials=9, seed=seed)) for seed in (1, 2))
    assert [each.l2 for each in first[1:]] != [each.l2 for each in second[1:]]
    assert [each.learning_rate for each in first] != [each.learning_rate for each in second]
    assert {each.l2 for each in choices(config(trials=9, l2_range=(0, 0)))[1:]} == {0.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trials": 0}, "--trials is 0"),
        ({"heads": ()}, "--heads is empty"),
        ({"heads": ("linear", "x")}, "unknown head 'x'"),
        ({"learning_rate_range": (0.1, 0.01)}, "--learning-rate-range is 0.1 0.01"),
        ({"learning_rate_range": (0, 0)}, "--learning-rate-range is 0 0"),
        ({"learning_rate_range": (1e-3, float("inf"))}, "--learning-rate-range is 0.001 inf"),
        ({"l2_range": (0.0, 0.1)}, "--l2-range is 0 0.1"),
        ({"l2_range": (float("nan"), 0.1)}, "--l2-range is nan 0.1"),
        ({"epochs": 0}, "--epochs is 0"),  # as of `train`
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match="^" + words.replace(".", r"\.")):
        config(**options)


@pytest.mark.parametrize("name", ["head", "learning_rate", "l2", "head_seed"])
def test_searched_parameters_are_not_options(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        config(**{name: None})


def test_a_choice_is_a_training() -> None:
    options: dict[str, Any] = {"images": "i", "model": "m", "views": 2, "seed": 4, "store": QUIET}
    chosen: dict[str, Any] = {"head": "7,5", "learning_rate": 0.1, "l2": 0.2, "head_seed": 3}
    found = config(**options).choose("7,5", 0.1, 0.2, 3)
    assert type(found) is TrainConfig
    assert found == TrainConfig(**options, **chosen)


def test_a_search_of_nothing_but_divergence_says_so(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="all 1 trials diverged: lower --learning-rate-range"):
        tune(TuneConfig(**options, trials=1, heads=("8",), learning_rate_range=(1e200, 1e200)))
    assert not list(Path(options["model"]).glob(".training/*"))


def test_a_search_of_nothing_but_crashes_says_so() -> None:
    trials = [{"ended": "diverged", "error": "x"}, {"ended": "failed", "error": "OSError: disk"}]
    error = monkeyray.training.tune._all_failed(config(), trials)
    assert isinstance(error, ClusterError)
    assert "none of the 2 trials finished, the first failed with OSError: disk" in str(error)


def broken(folds: Folds, vectors: Any) -> Training:
    raise OSError("some\nout of memory")


def deadly(folds: Folds, vectors: Any) -> Training:
    os._exit(3)


def test_failed_trial_has_no_metrics() -> None:
    folds = Folds(np.zeros(1, int), np.zeros(1, int))
    vectors = np.zeros((1, 4), np.float32)
    with contextlib.closing(MachineTrainer(debug=False)) as trainer:
        found = run_trials([broken, deadly], folds, vectors, trainer, Reporter(True))
    assert [each["ended"] for each in found] == ["failed", "failed"]
    errors = ["OSError: out of memory", "ClusterError: its process died 3 times, last with exit"]
    for each, error in zip(found, errors, strict=True):
        assert each["error"].startswith(error)
        assert each["epochs"] == 0
        assert each["validation_loss"] is each["validation_accuracy"] is None
