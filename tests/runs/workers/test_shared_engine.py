"""One engine for several decode processes: what it computes at once, and who gets which results."""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np
import pytest

from monkeyray.arrays import Array, Floats
from monkeyray.errors import BundleError, MonkeyRayError
from monkeyray.images.decode import Limits
from monkeyray.model.engines.choice import Engine
from monkeyray.runs.workers.shared_engine import SharedEngine
from tests.support.shard_jobs import SIZE, work


def pixels(*values: int) -> Array:
    return np.array(values, np.uint8)[:, None, None, None, None] + np.zeros(
        (1, 1, SIZE, SIZE, 3), np.uint8
    )


def test_waiting_batches_are_computed_together_and_answered_in_order() -> None:
    started, go, sizes = threading.Event(), threading.Event(), list[int]()

    def engine(pixels: Array) -> tuple[Floats, Floats]:
        sizes.append(len(pixels))
        started.set()
        assert go.wait(60)
        features = pixels[:, :, 0, 0, :1].astype(np.float32)
        return features, features[:, 0] * 2

    shared = SharedEngine(work(Limits(), lambda: engine), clients=5)
    # Four times the 8 batches that are computed at once, for 5 clients together.
    assert shared.work.ahead == 7
    answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    def ask(number: int, *values: int) -> None:
        shared.compute(pixels(*values), lambda outcome: answers.put((number, outcome)))

    ask(0, 7)
    assert started.wait(60)
    for number in range(1, 13):  # while it computes the first
        ask(number, *range(number * 8, number * 8 + 8 - number % 2))
    ask(13)
    go.set()
    for number in range(14):
        got, (features, logits) = answers.get(timeout=60)
        first, count = (7, 1) if not number else (number * 8, 8 - number % 2)
        expected = np.arange(first, first + count * (number < 13), dtype=np.float32)
        assert got == number
        np.testing.assert_array_equal(features[:, 0, 0], expected)
        np.testing.assert_array_equal(logits[:, 0], expected * 2)
    # Eight batches of 8 at most, and sizes that repeat.
    assert sizes == [1, 64, 32]


@pytest.mark.parametrize("problem", [BundleError("damaged"), ValueError("a bug")])
@pytest.mark.parametrize("early", [True, False])
def test_a_failure_is_the_answer(problem: Exception, early: bool) -> None:
    def engine(pixels: Array) -> tuple[Floats, Floats]:
        raise problem

    def make() -> Engine:
        if early:
            raise problem
        return engine

    shared, answers = SharedEngine(work(Limits(), make), 1), queue.SimpleQueue[Any]()
    for _ in range(2):
        shared.compute(pixels(1), answers.put)
        answer = answers.get(timeout=60)
        assert isinstance(answer, MonkeyRayError if type(problem) is BundleError else RuntimeError)
        assert str(problem) in str(answer)
