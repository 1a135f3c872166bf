"""The training loop in this process: no Ray, and one replica."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import ConfigError
from monkeyray.fit import CachedSource, FitConfig, Fitted, Parts, State, fit, share

CONFIG = FitConfig(
    features=8, labels=3, head=(6,), epochs=7, patience=7, batch_size=10, learning_rate=0.01,
    l2=1e-4, seed=3, checkpoint_seconds=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def strategy() -> Any:
    from monkeyray.backbones import import_keras

    import_keras()
    import tensorflow as tf

    return tf.distribute.get_strategy()


@pytest.fixture(scope="module")
def parts() -> Parts:
    truth = np.arange(60) % 3
    order = np.random.default_rng(1).permutation(60)
    return Parts(truth, order[:37], order[37:49], order[49:])


@pytest.fixture(scope="module")
def vectors(parts: Parts) -> Any:
    noise = np.random.default_rng(2).normal(size=(60, 8))
    return (noise + 2 * np.eye(8)[parts.truth]).astype(np.float32)


def run(strategy: Any, parts: Parts, vectors: Any, config: FitConfig = CONFIG, **more: Any) -> Any:
    return fit(config, parts, CachedSource(vectors), strategy=strategy, **more)


def assert_same(first: Fitted, second: Fitted) -> None:
    assert first.weights.keys() == second.weights.keys()
    for key, array in first.weights.items():
        np.testing.assert_array_equal(array, second.weights[key], strict=True)
    np.testing.assert_array_equal(first.test_logits, second.test_logits)
    np.testing.assert_array_equal(first.validation_logits, second.validation_logits)
    assert first.state.history == second.state.history
    assert first.state.best_epoch == second.state.best_epoch


@pytest.mark.parametrize("kill_after", [1, 4, 6])
def test_a_resumed_training_ends_where_an_undisturbed_one_does(
    kill_after: int, strategy: Any, parts: Parts, vectors: Any, tmp_path: Path
) -> None:
    def keep(state: State) -> None:
        if state.epoch == kill_after:
            state.save(tmp_path)

    whole = run(strategy, parts, vectors, checkpoint=keep)
    loaded = State.load(tmp_path)
    assert loaded.epoch == kill_after
    resumed = run(strategy, parts, vectors, resume=loaded)
    assert_same(resumed, whole)
    assert whole.state.epoch == 7
    assert (whole.state.resumed_from, resumed.state.resumed_from) == ([], [kill_after])


def test_a_state_comes_back_as_it_was(
    strategy: Any, parts: Parts, vectors: Any, tmp_path: Path
) -> None:
    states: list[State] = []
    fitted = run(strategy, parts, vectors, checkpoint=states.append)
    state = replace(states[-1], resumed_from=[2, 5])
    assert any(array.ndim == 0 for array in state.optimizer)  # Adam's count of steps
    state.save(tmp_path)
    loaded = State.load(tmp_path)
    for name in ("top", "optimizer", "best"):
        for before, after in zip(getattr(state, name), getattr(loaded, name), strict=True):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after, strict=True)
    empty: dict[str, Any] = {"top": [], "optimizer": [], "best": []}
    assert replace(loaded, **empty) == replace(state, **empty)
    # A training that had ended only answers again.
    assert_same(run(strategy, parts, vectors, resume=fitted.state), fitted)


def test_a_training_that_diverges_says_so(strategy: Any, parts: Parts, vectors: Any) -> None:
    saved: list[State] = []
    with pytest.raises(ConfigError, match=r"diverged in epoch 1: lower --learning-rate \(.*1e\+20"):
        run(
            strategy,
            parts,
            vectors,
            replace(CONFIG, learning_rate=1e200),
            checkpoint=saved.append,
        )
    assert not saved


def test_features_may_come_as_they_are_needed(strategy: Any, parts: Parts, vectors: Any) -> None:
    def stream(index: Any) -> Iterator[Any]:
        for step in index:
            yield vectors[step]

    cached = run(strategy, parts, vectors)
    streamed = fit(CONFIG, parts, stream, strategy=strategy)
    for key, array in cached.weights.items():
        np.testing.assert_allclose(array, streamed.weights[key], atol=1e-12, rtol=0)


def test_it_learns_and_stops(strategy: Any, parts: Parts, vectors: Any) -> None:
    fitted = run(strategy, parts, vectors, replace(CONFIG, epochs=200, patience=3))
    state = fitted.state
    assert state.history[state.best_epoch - 1]["validation_loss"] == state.best_loss
    assert state.best_loss < state.history[0]["validation_loss"] / 2
    assert state.epoch == min(200, state.best_epoch + 3)
    assert fitted.test_logits.shape == (11, 3)


@given(
    images=st.integers(0, 70),
    batch_size=st.integers(1, 40),
    world=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_shares_hold_every_image_once(images: int, batch_size: int, world: int, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(images) + 100
    shares = [share(order, batch_size, rank, world) for rank in range(world)]
    steps = -(-images // batch_size)
    assert {part.index.shape for part in shares} == {part.weight.shape for part in shares}
    assert len({part.index.shape for part in shares}) == 1
    for step in range(steps):
        weight = np.concatenate([part.weight[step] for part in shares])
        index = np.concatenate([part.index[step] for part in shares])
        assert set(weight.tolist()) <= {0.0, 1.0}
        wanted = order[step * batch_size : (step + 1) * batch_size]
        assert sorted(index[weight > 0].tolist()) == sorted(wanted.tolist())
        assert all(part.total[step] == len(wanted) for part in shares)
    # No step is wider than its images need, but for what the workers cannot halve.
    assert shares[0].index.shape[1] * world < min(batch_size, images) + world
