"""The linear head: it is the optimum, whatever the number of workers and wherever it starts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.arrays import Array
from monkeyray.model.head import head_logits
from monkeyray.statistics.metrics import softmax
from monkeyray.training.linear import Progress, fit_linear

LABELS, WIDTH = 3, 7


def problem(seed: int, images: int = 60) -> tuple[Array, Array, Array]:
    """Features float32, truth, and the weights of three heads, two of which see only some."""
    random = np.random.default_rng(seed)
    truth = np.arange(images) % LABELS
    vectors = random.normal(size=(images, WIDTH)) + np.eye(WIDTH)[truth]
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


@pytest.mark.parametrize("world", [2, 3, 8])
def test_any_number_of_workers_gives_the_same_heads(world: int) -> None:
    vectors, truth, weight = problem(2, images=7 if world == 8 else 60)
    barrier, parts = threading.Barrier(world), [np.zeros(0)] * world

    def work(rank: int) -> Any:
        def all_reduce(values: Array) -> Array:
            parts[rank] = values
            barrier.wait()
            total = np.sum(parts, axis=0)
            barrier.wait()
            return np.asarray(total)

        return fit_linear(
            vectors, truth, weight, LABELS, rank=rank, world=world, all_reduce=all_reduce
        )

    alone = fit_linear(vectors, truth, weight, LABELS)
    with ThreadPoolExecutor(world) as pool:
        for heads in pool.map(work, range(world)):
            for head, one in zip(heads, alone, strict=True):
                for name, array in one.items():
                    np.testing.assert_allclose(head[name], array, rtol=0, atol=1e-6)


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
