"""The training loop in this process: no Ray, and one replica."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import ConfigError
from monkeyray.model.head import head_logits, scale_logits
from monkeyray.statistics.splits import IN_NO_FOLD, TEST, Folds
from monkeyray.training.fitting.distributed import below
from monkeyray.training.fitting.head import HeadLearner
from monkeyray.training.fitting.loop import CachedSource, FitConfig, fit, share
from monkeyray.training.fitting.worker import State, Worker

CONFIG = FitConfig(
    epochs=7, patience=7, batch_size=10, learning_rate=0.01, l2=1e-4, seed=3, checkpoint_seconds=0
)


@pytest.fixture(scope="module")
def folds() -> Folds:
    """Two folds, an image in none and some for a test."""
    fold = np.random.default_rng(1).permutation(np.arange(60) % 2)
    fold[20:26], fold[30] = TEST, IN_NO_FOLD
    return Folds(np.arange(60) % 3, fold)


@pytest.fixture(scope="module")
def vectors(folds: Folds) -> Any:
    noise = np.random.default_rng(2).normal(size=(60, 8))
    return (noise + 3 * np.eye(8)[folds.truth]).astype(np.float32)


def run(folds: Folds, vectors: Any, config: FitConfig = CONFIG, **more: Any) -> Any:
    learner = HeadLearner(8, (6,), 3, 3, config.seed)
    return fit(config, learner, folds, CachedSource(vectors), Worker(**more))


@pytest.fixture(scope="module")
def states(folds: Folds, vectors: Any) -> list[State]:
    """The states of an uninterrupted training: after each epoch, and the result last."""
    states: list[State] = []
    fitted = run(folds, vectors, checkpoint=lambda state: states.append(copy.deepcopy(state)))
    return [*states, fitted]


def one_head(state: State, number: int) -> dict[str, Any]:
    """The best weights of one of the heads."""
    return dict(zip("abcd", (each[number] for each in state.best), strict=True))


def assert_same(first: State, second: State) -> None:
    for one, other in zip(first.best, second.best, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
    assert first.history == second.history
    assert first.best_epoch == second.best_epoch


@pytest.mark.parametrize("kill_after", [1, 4, 6])
def test_a_resumed_training_ends_where_an_undisturbed_one_does(
    kill_after: int,
    states: list[State],
    folds: Folds,
    vectors: Any,
) -> None:
    loaded = State.from_bytes(states[kill_after - 1].to_bytes())
    assert loaded.epoch == kill_after
    resumed = run(folds, vectors, resume=loaded)
    whole = states[-1]
    assert_same(resumed, whole)
    assert whole.epoch == 7
    assert (whole.resumed_from, resumed.resumed_from) == ([], [kill_after])


def test_the_same_seed_gives_the_same_weights(
    states: list[State], folds: Folds, vectors: Any
) -> None:
    assert_same(states[-1], run(folds, vectors))
    other = run(folds, vectors, replace(CONFIG, seed=4))
    assert not np.array_equal(states[-1].best[0], other.best[0])


def test_a_state_comes_back_as_it_was(states: list[State], folds: Folds, vectors: Any) -> None:
    state = replace(states[-2], resumed_from=[2, 5])
    assert any(array.ndim == 0 for array in state.optimizer)  # Adam's count of steps
    loaded = State.from_bytes(state.to_bytes())
    for name in ("variables", "optimizer", "best"):
        for before, after in zip(getattr(state, name), getattr(loaded, name), strict=True):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after, strict=True)
    empty: dict[str, Any] = {"variables": [], "optimizer": [], "best": []}
    assert replace(loaded, **empty) == replace(state, **empty)
    # A training that had ended only answers again.
    assert_same(run(folds, vectors, resume=states[-1]), states[-1])


def test_a_training_that_diverges_says_so(folds: Folds, vectors: Any) -> None:
    saved: list[State] = []
    with pytest.raises(ConfigError, match=r"diverged in epoch 1: lower --learning-rate \(.*1e\+20"):
        run(
            folds,
            vectors,
            replace(CONFIG, learning_rate=1e200),
            checkpoint=saved.append,
        )
    assert not saved


def test_features_may_come_as_they_are_needed(
    states: list[State], folds: Folds, vectors: Any
) -> None:
    asked = set()

    def stream(index: Any, epoch: int | None) -> Iterator[Any]:
        asked.add(epoch)
        for step in index:
            yield vectors[step]

    learner = HeadLearner(8, (6,), 3, 3, CONFIG.seed)
    streamed = fit(CONFIG, learner, folds, stream, Worker())
    for one, other in zip(states[-1].best, streamed.best, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12, rtol=0)
    assert asked == {None, *range(1, 8)}


def test_it_learns_and_stops(folds: Folds, vectors: Any) -> None:
    state = run(folds, vectors, replace(CONFIG, epochs=200, patience=3))
    assert state.history[state.best_epoch - 1]["validation_loss"] == state.best_loss
    assert state.best_loss < state.history[0]["validation_loss"] / 2
    assert state.epoch == min(200, state.best_epoch + 3)


def test_class_weights_shift_the_predictions(
    states: list[State], folds: Folds, vectors: Any
) -> None:
    weight = np.where(folds.truth == 2, 2.8, 0.1)
    more = replace(CONFIG, epochs=20, patience=20)
    plain = run(folds, 0.3 * vectors, more)
    tilted = run(replace(folds, weight=weight), 0.3 * vectors, more)
    claimed = [
        (head_logits(one_head(state, 2), 0.3 * vectors).argmax(1) == 2).sum()
        for state in (plain, tilted)
    ]
    assert claimed[1] > claimed[0]
    # All weights 1 are no weights.
    same = run(replace(folds, weight=np.ones(60)), vectors)
    assert_same(same, states[-1])


def test_what_is_trained_already_is_kept_unless_it_gets_better(folds: Folds, vectors: Any) -> None:
    config = replace(CONFIG, keep_start=True, epochs=3)
    learner = HeadLearner(8, (6,), 3, 3, 3)
    good = run(folds, vectors, replace(CONFIG, epochs=30, learning_rate=0.03))
    for variable, value in zip(learner.variables, good.best, strict=True):
        variable.assign(value)
    wild = replace(config, learning_rate=30.0)
    told: list[int] = []
    kept = fit(
        wild,
        learner,
        folds,
        CachedSource(vectors),
        Worker(on_epoch=lambda figures: told.append(figures["epoch"])),
    )
    assert told == [0, 1, 2, 3]
    assert kept.best_epoch == 0
    for before, after, now in zip(good.best, kept.best, learner.variables, strict=True):
        np.testing.assert_array_equal(before, after)
        np.testing.assert_array_equal(before, np.asarray(now))
    assert kept.history[0]["epoch"] == 0
    assert kept.history[0]["validation_loss"] == pytest.approx(good.best_loss)
    # And where it diverges, which ends it.
    mad = replace(config, learning_rate=1e200)
    kept = fit(mad, learner, folds, CachedSource(vectors), Worker())
    assert (kept.diverged, kept.done, kept.best_epoch, len(kept.history)) == (True, True, 0, 1)
    # One that is not good yet does get better.
    assert run(folds, vectors, config).best_epoch > 0


def test_no_head_learns_from_its_fold(states: list[State], folds: Folds, vectors: Any) -> None:
    """Labels changed in one fold, or in the test images, change only what may learn from them."""
    for fold, changed in ((0, {1, 2}), (IN_NO_FOLD, {0, 1, 2}), (TEST, set())):
        truth = np.where(folds.fold == fold, (folds.truth + 1) % 3, folds.truth)
        # The last epoch's variables: which epoch is the best depends on the held-out images.
        other = run(replace(folds, truth=truth), vectors)
        moved = {
            head
            for head in range(3)
            for one, another in zip(states[-1].variables, other.variables, strict=True)
            if not np.array_equal(one[head], another[head])
        }
        assert moved == changed


def test_a_fold_of_its_own_is_a_validation_split(folds: Folds, vectors: Any) -> None:
    """One head learns from all but the first fold, which measures it."""
    learner = HeadLearner(8, (6,), 3, 1, CONFIG.seed)
    alone = fit(CONFIG, learner, folds, CachedSource(vectors), Worker())
    its = folds.fold == 0
    logits = head_logits(below(learner.weights(), "0"), vectors[its])
    assert alone.history[alone.best_epoch - 1]["validation_accuracy"] == pytest.approx(
        np.mean(logits.argmax(axis=1) == folds.truth[its])
    )
    truth = np.where(its | (folds.fold == TEST), (folds.truth + 1) % 3, folds.truth)
    learner = HeadLearner(8, (6,), 3, 1, CONFIG.seed)
    other = fit(CONFIG, learner, replace(folds, truth=truth), CachedSource(vectors), Worker())
    for one, another in zip(alone.variables, other.variables, strict=True):
        np.testing.assert_array_equal(one, another)


def test_fold_heads_are_the_same_without_the_last_one(
    states: list[State], folds: Folds, vectors: Any
) -> None:
    learner = HeadLearner(8, (6,), 3, 2, CONFIG.seed)
    found = fit(CONFIG, learner, folds, CachedSource(vectors), Worker())
    assert len(found.history) == len(states[-1].history)
    for figures, others in zip(found.history, states[-1].history, strict=True):
        for name in ("validation_loss", "validation_accuracy"):
            assert figures[name] == pytest.approx(others[name], rel=1e-12)


def test_numpy_and_keras_agree_on_a_head(vectors: Any) -> None:
    for head in ((), (6,), (7, 5)):
        learner = HeadLearner(8, head, 3, 2, 1)
        for variable in learner.variables:
            variable.assign(np.random.default_rng(4).normal(size=variable.shape))
        expected = np.asarray(learner.logits(vectors))
        for number in range(2):
            weights = below(learner.weights(), str(number))
            np.testing.assert_allclose(
                head_logits(weights, vectors), expected[:, number], atol=1e-5
            )


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
    assert {each.index.shape for each in shares} == {each.real.shape for each in shares}
    assert len({each.index.shape for each in shares}) == 1
    for step in range(steps):
        real = np.concatenate([each.real[step] for each in shares])
        index = np.concatenate([each.index[step] for each in shares])
        assert set(real.tolist()) <= {0.0, 1.0}
        wanted = order[step * batch_size : (step + 1) * batch_size]
        assert sorted(index[real > 0].tolist()) == sorted(wanted.tolist())
    # No step is wider than its images need, but for what the workers cannot halve.
    assert shares[0].index.shape[1] * world < min(batch_size, images) + world


def test_scaled_logits_are_those_of_the_head_times_a_factor(vectors: Any) -> None:
    for head in ((), (6,)):
        weights = below(HeadLearner(8, head, 3, 1, 1).weights(), "0")
        scaled = head_logits(scale_logits(weights, 2.5), vectors)
        np.testing.assert_allclose(
            scaled, 2.5 * head_logits(weights, vectors), rtol=1e-5, atol=1e-6
        )
