"""The linear head: it is the optimum, whatever the number of workers and wherever it starts."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from monkeyray.arrays import Array
from monkeyray.model.backbones import Weights
from monkeyray.model.head import head_logits
from monkeyray.statistics.metrics import softmax
from monkeyray.statistics.splits import IN_NO_FOLD, TEST, Folds
from monkeyray.training.fitting import linear
from monkeyray.training.fitting.distributed import below
from monkeyray.training.fitting.linear import LinearConfig, LinearTraining, Progress, fit_linear
from monkeyray.training.fitting.worker import State, Worker

LABELS, WIDTH = 3, 7


def problem(seed: int, images: int = 60, width: int = WIDTH) -> tuple[Array, Array, Array]:
    """Features float32, truth, and the weights of three heads, two of which see only some."""
    random = np.random.default_rng(seed)
    truth = np.arange(images) % LABELS
    vectors = random.normal(size=(images, width)) + np.eye(width)[truth]
    weight = random.uniform(0.5, 2, (images, 3))
    weight[: images // 3, 1] = weight[images // 3 : images // 2, 2] = 0
    return (5 + 3 * vectors).astype(np.float32), truth, weight


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.1, 1.0, 10.0]))
def test_each_head_is_the_optimum_of_its_images(seed: int, l2: float) -> None:
    vectors, truth, weight = problem(seed)
    tolerance = 1e-6
    heads = fit_linear(vectors, truth, weight, LABELS, l2, tolerance=tolerance)
    exact = vectors.astype(np.float64)
    scale = np.sqrt(exact.var(axis=0).mean())
    centred = (exact - exact.mean(axis=0)) / scale
    for head, its in zip(heads, weight.T, strict=True):
        residual = its[:, None] * (softmax(head_logits(head, vectors)) - np.eye(LABELS)[truth])
        gradient = centred.T @ residual + l2 * scale * head["0000"]
        # The weights are rounded to float32.
        np.testing.assert_allclose(gradient, 0, atol=tolerance * its.sum() + 1e-4)
        np.testing.assert_allclose(residual.sum(axis=0), 0, atol=tolerance * its.sum() + 1e-4)


def test_a_head_never_predicts_a_label_that_it_has_not_seen() -> None:
    """Such as one that is at the location alone that the head is measured at."""
    vectors, truth, weight = problem(2)
    weight[truth == 1, 0] = 0
    steps: list[Progress] = []
    head, other, _ = fit_linear(vectors, truth, weight, LABELS, 1.0, on_step=steps.append)
    assert len(steps) < 100
    assert not (head_logits(head, vectors).argmax(axis=1) == 1).any()
    assert (head_logits(other, vectors).argmax(axis=1) == 1).sum() > 5


def test_it_is_the_regression_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    vectors, truth, weight = problem(1)
    scale = np.sqrt(vectors.var(axis=0, dtype=np.float64).mean())
    (head,) = fit_linear(vectors, truth, weight[:, :1], LABELS, 4.0, tolerance=1e-8)
    other = LogisticRegression(C=1 / 4.0, tol=1e-8, max_iter=10_000)
    other.fit(vectors / scale, truth, sample_weight=weight[:, 0])
    np.testing.assert_allclose(
        softmax(head_logits(head, vectors)), other.predict_proba(vectors / scale), atol=1e-5
    )


def fitted_by(world: int, images: int) -> list[tuple[list[Weights], list[Progress]]]:
    """The heads and steps that each of `world` workers gets for `problem(2)`."""
    vectors, truth, weight = problem(2, images)
    fold = np.arange(images) % 2
    barrier, parts = threading.Barrier(world), [np.zeros(0)] * world

    def work(rank: int) -> tuple[list[Weights], list[Progress]]:
        steps: list[Progress] = []
        answers = itertools.cycle([True, False, False])

        def all_reduce(values: Array) -> Array:
            parts[rank] = values
            barrier.wait()
            total = np.sum(parts, axis=0)
            barrier.wait()
            return np.asarray(total)

        heads = fit_linear(
            vectors, truth, weight, LABELS,
            rank=rank, world=world, threads=1 + world % 3, all_reduce=all_reduce, fold=fold,
            due=lambda: rank == 0 and next(answers), on_step=steps.append,
        )  # fmt: skip
        return heads, steps

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(world) as pool:
        return list(pool.map(work, range(world)))


@pytest.mark.parametrize("images", [7, 60])
def test_any_number_of_workers_gives_the_same_heads_to_the_last_bit(
    images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "_ROWS", 3)  # so that a share has several blocks
    ((heads, steps),) = fitted_by(1, images)
    assert {step.due for step in steps} == {True, False}
    for world in (2, 3, 5, 8, 17):
        for others, its in fitted_by(world, images):
            for head, other in zip(heads, others, strict=True):
                for name, array in head.items():
                    np.testing.assert_array_equal(other[name], array)
            for step, same in zip(steps, its, strict=True):
                np.testing.assert_equal(asdict(same), asdict(step))


def test_any_number_of_threads_takes_the_same_steps_to_the_last_bit() -> None:
    # Enough features for BLAS to use several threads, which would round differently.
    vectors, truth, weight = problem(2, images=300, width=1200)
    found: list[list[Progress]] = []
    for threads in (1, 2, 5):
        found.append([])
        with threadpool_limits(threads, "blas"):
            fit_linear(vectors, truth, weight, LABELS, threads=threads, on_step=found[-1].append)
    for steps in found[1:]:
        for step, other in zip(found[0], steps, strict=True):
            np.testing.assert_equal(asdict(other), asdict(step))


def test_it_resumes_from_any_step() -> None:
    vectors, truth, weight = problem(3)
    steps: list[Progress] = []
    whole = fit_linear(vectors, truth, weight, LABELS, tolerance=1e-7, on_step=steps.append)
    losses = [step.loss for step in steps]
    assert losses == sorted(losses, reverse=True)
    later: list[Progress] = []
    resumed = fit_linear(
        vectors, truth, weight, LABELS,
        tolerance=1e-7, start=steps[len(steps) // 2].values, on_step=later.append,
    )  # fmt: skip
    assert len(later) < len(steps)
    for head, other in zip(whole, resumed, strict=True):
        for name, array in head.items():
            np.testing.assert_allclose(other[name], array, rtol=0, atol=1e-5)


@given(st.floats(0.01, 100), st.floats(-10, 10))
@settings(max_examples=10, deadline=None)
def test_the_units_of_features_do_not_matter(factor: float, offset: float) -> None:
    vectors, truth, weight = problem(4)
    vectors = vectors.astype(np.float64)
    heads = fit_linear(vectors, truth, weight, LABELS, tolerance=1e-7)
    others = fit_linear(factor * vectors + offset, truth, weight, LABELS, tolerance=1e-7)
    for head, other in zip(heads, others, strict=True):
        np.testing.assert_allclose(
            softmax(head_logits(other, factor * vectors + offset)),
            softmax(head_logits(head, vectors)),
            atol=1e-4,
        )


def test_features_that_never_vary_leave_the_shares_of_the_labels() -> None:
    truth = np.array([0, 0, 0, 1])
    (head,) = fit_linear(np.ones((4, 2), np.float32), truth, np.ones((4, 1)), 2)
    scores = softmax(head_logits(head, np.ones((1, 2))))
    np.testing.assert_allclose(scores, [[0.75, 0.25]], atol=1e-4)


def training(subsets: dict[float, Any] | None = None) -> LinearTraining:
    """Of three folds, with images of a test and one that is in no fold."""
    vectors, truth, _ = problem(2, 90)
    fold = np.random.default_rng(0).permutation(np.arange(90) % 3)
    fold[60:70], fold[5] = TEST, IN_NO_FOLD
    config = LinearConfig(epochs=1000, l2=1.0, checkpoint_seconds=0)
    return LinearTraining(config, Folds(truth, fold), vectors, LABELS, 4, subsets or {})


def test_each_fold_is_measured_by_the_head_that_has_not_seen_it() -> None:
    task = training()
    epochs: list[dict[str, Any]] = []
    state, weights = task(Worker(on_epoch=epochs.append))
    assert state.done
    assert state.epoch == state.best_epoch == len(epochs)
    assert state.history == epochs
    fold, truth = task.folds.fold, task.folds.truth
    right = [
        np.mean(
            head_logits(below(weights, str(k)), task.vectors[fold == k]).argmax(1)
            == truth[fold == k]
        )
        for k in range(3)
    ]
    assert epochs[-1]["validation_accuracy"] == pytest.approx(
        np.average(right, weights=np.bincount(fold[fold >= 0]))
    )
    # Labels changed in a fold, or in the test, change only the heads that learn from them.
    for place, moved in ((1, {"0", "2", "3"}), (IN_NO_FOLD, {"0", "1", "2", "3"}), (TEST, set())):
        changed = np.where(fold == place, (truth + 1) % LABELS, truth)
        _, others = replace(task, folds=replace(task.folds, truth=changed))(Worker())
        found = {
            str(k)
            for k in range(4)
            if not np.allclose(
                below(weights, str(k))["0000"], below(others, str(k))["0000"], atol=1e-3
            )
        }
        assert found == moved


def test_a_training_resumes_and_ends_where_an_undisturbed_one_does() -> None:
    states: list[State] = []
    task = training()
    whole, weights = task(Worker(checkpoint=states.append))
    for state in (states[3], whole):
        again, found = task(Worker(resume=state))
        assert again.resumed_from == ([] if state.done else [state.epoch])
        assert [each["epoch"] for each in again.history] == list(range(1, again.epoch + 1))
        for name, array in weights.items():
            np.testing.assert_allclose(found[name], array, atol=0 if state.done else 2e-3)


def test_heads_on_subsets_learn_from_these_alone() -> None:
    part = np.random.default_rng(1).random(90) < 0.7
    task = training({0.7: part})
    _, weights = task(Worker())
    _, plain = training()(Worker())
    assert {name for name in weights if not name.startswith("subset-")} == plain.keys()
    for name, array in plain.items():
        np.testing.assert_array_equal(weights[name], array)
    assert len(below(weights, "subset-0.7/2")) == 2
    seen = part & (task.folds.fold != TEST)
    sizes = [int((seen & (task.folds.fold != k)).sum()) for k in range(3)]
    assert weights["subset-0.7/images"] == pytest.approx(np.mean(sizes))
