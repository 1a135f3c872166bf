"""The search: what it tries, how trials end, and the bundle of the best."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

import monkeyray.training.tune
from monkeyray.console import Reporter
from monkeyray.errors import ClusterError, ConfigError
from monkeyray.model.bundle import load_bundle
from monkeyray.options import StoreConfig
from monkeyray.storage.store import Storage
from monkeyray.training.head import head_training
from monkeyray.training.loop import Learner, Splits
from monkeyray.training.options import TrainConfig, TuneConfig
from monkeyray.training.summary import Trained
from monkeyray.training.tune import Choice, choices, run_trials, tune

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
def test_what_is_tried_follows_from_the_options(
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
            "head": "linear", "learning_rate": 0.003, "l2": 0.001, "head_seed": seed
        }  # fmt: skip
    for number, choice in enumerate(found[start:], start):
        assert choice.head == heads[number % len(heads)]
        # They have three digits.
        assert low * 0.99 <= choice.learning_rate <= low * factor * 1.01
        assert 1e-6 * 0.99 <= choice.l2 <= 1e-2 * 1.01


def test_another_seed_tries_others() -> None:
    first, second = (choices(config(trials=9, seed=seed)) for seed in (1, 2))
    assert not {each.learning_rate for each in first[1:]} & {each.l2 for each in second}
    assert [each.learning_rate for each in first[1:]] != [each.learning_rate for each in second[1:]]
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
def test_what_is_searched_for_is_no_option(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        config(**{name: None})


def test_a_choice_is_a_training() -> None:
    options: dict[str, Any] = {"images": "i", "model": "m", "views": 2, "seed": 4, "store": QUIET}
    chosen: dict[str, Any] = {"head": "7,5", "learning_rate": 0.1, "l2": 0.2, "head_seed": 3}
    found = config(**options).choose("7,5", 0.1, 0.2, 3)
    assert type(found) is TrainConfig
    assert found == TrainConfig(**options, **chosen)


def test_the_best_on_validation_is_published(
    options: dict[str, Any],
    trained: Trained,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = [
        Choice("linear", 1e-5, 0.0, 1),
        Choice("8", 1e-6, 0.0, 3),
        Choice("linear", 1e200, 1e-4, 4),
        Choice("linear", 0.003, 0.001, 0),  # as the first model was trained
    ]
    monkeypatch.setattr(monkeyray.training.tune, "choices", lambda config: tried)
    home = set(Path.home().iterdir())
    found = tune(TuneConfig(**options, trials=4))
    assert capfd.readouterr().out == ""
    assert set(Path.home().iterdir()) == home
    assert not Path(f"{found.uri}/.training").exists()
    assert found.opened == 0
    assert load_bundle(found.uri, Storage()).model["model_id"] == found.model["model_id"]

    metrics = found.model["metrics"]
    trials = metrics["search"]["trials"]
    names = [each.name for each in fields(Choice)]
    assert [Choice(**{name: trial[name] for name in names}) for trial in trials] == tried
    ends = ["finished", "finished", "diverged", "finished"]
    assert [trial["ended"] for trial in trials] == ends
    assert trials[2]["validation_loss"] is None
    assert "diverged in epoch 1" in trials[2]["error"]
    assert metrics["search"]["best"] == 3
    best = trials[3]
    assert best["validation_loss"] < trials[0]["validation_loss"]

    # The bundle is that trial, and what `train` makes of the same options.
    assert (metrics["epochs_run"], metrics["best_epoch"]) == (best["epochs"], best["best_epoch"])
    epoch = metrics["history"][best["best_epoch"] - 1]
    assert epoch["validation_loss"] == pytest.approx(best["validation_loss"], rel=1e-6)
    assert epoch["validation_accuracy"] == best["validation_accuracy"]
    assert trained.model["weights"] == found.model["weights"]
    assert trained.model["metrics"]["history"] == metrics["history"]
    assert trained.model["metrics"]["search"] is None
    assert ", 1 diverged\nbest on validation: --head linear" in str(found)
    assert "best on validation" not in str(trained)
    # Ray writes down what the driver hands to its tasks.
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    assert [path for path in logs.iterdir() if path.is_file() and secret in path.read_bytes()] == []


def test_a_search_of_nothing_but_divergence_says_so(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="all 1 trials diverged: lower --learning-rate-range"):
        tune(TuneConfig(**options, trials=1, heads=("8",), learning_rate_range=(1e200, 1e200)))
    assert not list(Path(options["model"]).glob(".training/*"))


def test_a_search_of_nothing_but_crashes_says_so() -> None:
    trials = [{"ended": "diverged", "error": "x"}, {"ended": "failed", "error": "OSError: disk"}]
    error = monkeyray.training.tune._all_failed(config(), trials)
    assert isinstance(error, ClusterError)
    assert "none of the 2 trials finished, the first failed with OSError: disk" in str(error)


def test_a_trial_that_fails_has_no_figures(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Learner:
        raise OSError("some\nout of memory")

    splits = Splits(*(np.zeros(1, int),) * 4)
    fit_config, _ = head_training(TrainConfig(images="i", model="m"), 2)
    (found,) = run_trials(
        [(fit_config, broken)], splits, np.zeros((1, 4), np.float32), Reporter(True)
    )
    assert (found["ended"], found["error"]) == ("failed", "OSError: out of memory")
    assert found["epochs"] == 0
    assert found["validation_loss"] is found["validation_accuracy"] is None
