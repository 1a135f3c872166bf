"""Fine-tuning: what is trained, and which network is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from monkeyray.model.backbones import build_backbone, import_keras, last_layers, load_weights
from monkeyray.model.head import build_head
from monkeyray.model.network import Network
from monkeyray.statistics.splits import Folds
from monkeyray.storage.store import Storage
from monkeyray.training.fitting.distributed import Outcome, below
from monkeyray.training.fitting.fine_tuning import FineTuneLearner, fine_tune
from monkeyray.training.fitting.loop import CachedSource, FitConfig, fit
from monkeyray.training.fitting.worker import State, Worker


def test_the_last_block_and_the_head_are_trained_and_nothing_else() -> None:
    import_keras()
    truth = np.arange(6) % 2
    pixels = np.random.default_rng(0).integers(0, 120, (6, 1, 224, 224, 3), np.uint8)
    pixels[truth == 1, ..., 0] += 120  # red
    weights = load_weights("mobilenet", "imagenet", Storage())
    head = build_head(1024, (), 2).get_weights()
    network = Network("mobilenet", weights, ("middle",), dict(zip("ab", head, strict=True)), (), 2)
    learner = FineTuneLearner(network, "1-block")
    before = np.asarray(learner.logits(pixels))
    assert before.shape == (6, 1, 2)
    folds = Folds(truth, np.array([-1, -1, -1, -1, 0, 0]))
    config = FitConfig(
        epochs=2, patience=2, batch_size=4, learning_rate=1e-3, l2=0.0, seed=1,
        checkpoint_seconds=60, keep_start=True,
    )  # fmt: skip
    state = fit(config, learner, folds, CachedSource(pixels), Worker())
    losses = [epoch["validation_loss"] for epoch in state.history]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert not np.allclose(np.asarray(learner.logits(pixels)), before)
    found = learner.weights()
    assert len(below(found, "head")) == 2
    backbone = below(found, "backbone")
    changed = {key for key, array in backbone.items() if not np.array_equal(array, weights[key])}
    block = last_layers(build_backbone("mobilenet"), "mobilenet", "1-block")
    names = {layer.name for layer in block}
    assert {key.split("/")[1] for key in changed} == names
    assert backbone.keys() == weights.keys()


#: Heads on two features, for the labels 0 and 1: the sign that a feature must have.
RIGHT, WRONG = ({"a": sign * np.eye(2), "b": np.zeros(2)} for sign in (1, -1))


@pytest.mark.parametrize(
    ("before", "after", "best_epoch", "kept"),
    [
        (WRONG, RIGHT, 3, True),
        (RIGHT, WRONG, 3, False),
        (RIGHT, RIGHT, 3, False),  # no better
        (WRONG, RIGHT, 0, False),  # no epoch was better than the start
    ],
)
def test_a_network_is_kept_only_if_it_is_better(
    before: Any, after: Any, best_epoch: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = np.arange(20) % 2
    vectors = 3 * np.eye(2)[truth][:, None] + np.random.default_rng(0).normal(size=(20, 1, 2))
    folds = Folds(truth, np.arange(20) // 10)
    data: Any = SimpleNamespace(folds=folds, vectors=vectors, images=None)
    weights = {"backbone/x": np.ones(1), **{f"head/{key}": after[key] for key in after}}
    state = State(3, [], [], [], best_epoch, 0.1)
    starts = []

    def run(job: Any, network: Network, data: Any, layers: str) -> Outcome:
        starts.append(network.head_weights)
        return Outcome(weights, state, 2.0)

    monkeypatch.setattr("monkeyray.training.fitting.fine_tuning._run_fine_tuning", run)
    job: Any = SimpleNamespace(
        seconds={"head": 1.0},
        reporter=SimpleNamespace(say=lambda message: None),
        features=lambda network, images: vectors.copy(),
    )
    network = Network("mobilenet", {"x": np.zeros(1)}, ("middle",), before, (), 2)
    found, features, figures = fine_tune(job, network, data, "1-block")
    assert figures["kept"] == kept
    assert (found is network) != kept
    assert (features is vectors) != kept
    assert (figures["after"] is None) == (best_epoch == 0)
    assert job.seconds["head"] == 3.0
    if kept:
        assert found.backbone_weights == {"x": np.ones(1)}
        assert figures["after"]["loss"] < figures["before"]["loss"]
    # It starts from calibrated logits.
    (start,) = starts
    assert start is not None
    np.testing.assert_allclose(start["a"], before["a"] / figures["before"]["temperature"])
