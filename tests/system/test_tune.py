"""The search from end to end, on Ray: the best trial out of fold becomes the bundle."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest
import ray

import monkeyray.training.tune
from monkeyray.model.bundle import load_bundle
from monkeyray.options import StoreConfig
from monkeyray.storage.store import Storage
from monkeyray.training.options import TuneConfig
from monkeyray.training.summary import Trained
from monkeyray.training.tune import Choice, tune


def test_the_best_out_of_fold_is_published(
    trained: Trained,
    ray_session: None,
    few: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = [
        Choice("linear", None, 1e5, None),
        Choice("8", 1e-6, 0.0, 3),
        Choice("8", 1e200, 1e-4, 4),
        Choice("linear", None, 10.0, None),  # as the first model was trained
    ]
    monkeypatch.setattr(monkeyray.training.tune, "choices", lambda config: tried)
    home = set(Path.home().iterdir())
    found = tune(
        TuneConfig(
            images=str(few),
            model=str(tmp_path / "model"),
            features=f"{trained.uri}/features",  # of the first model
            trials=4,
            store=StoreConfig(quiet=True),
        )
    )
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
    assert ", 1 diverged\nbest out of fold: --head linear --l2 10.0" in str(found)
    assert "best out of fold" not in str(trained)
    # Ray writes down what the driver hands to its tasks.
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    assert [path for path in logs.iterdir() if path.is_file() and secret in path.read_bytes()] == []
