"""Charts: every mark is at its value, and within the frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.pages.charts import Frame, activity, coverage, curves, reliability, steps
from monkeyray.statistics.calibration import reliability as reliability_rows
from monkeyray.statistics.thresholds import coverage_curve

shares = st.floats(0, 1)


@given(st.floats(0.001, 1e6), st.floats(0, 0.95))
def test_steps_enclose_the_values(loss: float, accuracy: float) -> None:
    for low, high in ((0.0, loss), (accuracy, 1.0)):
        ticks = steps(low, high)
        assert ticks[0] <= low + 1e-9
        assert ticks[-1] >= high * (1 - 1e-9)
        assert 3 <= len(ticks) <= 7
    assert steps(accuracy, 1.0)[-1] == 1.0  # no tick above 100%


def test_steps_are_round() -> None:
    assert steps(0.7, 1.0) == [0.7, 0.8, 0.9, 1.0]  # though 0.7 / 0.1 < 7
    assert steps(0.0, 2.3) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert steps(0.5, 3.5, least=1.0) == [0.0, 1.0, 2.0, 3.0, 4.0]


def _history(values: list[float | None]) -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "train_loss": value, "validation_loss": 0.5}
        for epoch, value in enumerate(values)
    ]


def test_curves_follow_their_values() -> None:
    chart = curves(_history([None, 1.0, 0.5, float("nan"), 0.0]), "loss", 2)
    frame = chart.frame
    at = {text: y for y, text in chart.y_ticks}
    assert [y for _, y in chart.train] == [at["1"], frame.y(0.5), frame.bottom]
    assert [x for x, _ in chart.train] == [x for x, text in chart.x_ticks if text in "124"]
    assert len(chart.validation) == 5
    assert chart.best == (chart.train[1][0], 2)
    assert curves([], "accuracy", None).best is None


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=1, max_size=40))
def test_curves_stay_in_their_frame(values: list[float | None]) -> None:
    chart = curves(_history(values), "loss", None)
    _within(chart.frame, [*chart.train, *chart.validation])


def test_reliability_by_hand() -> None:
    rows = reliability_rows(np.array([0.15, 0.95, 0.95, 1.0]), np.array([1, 1, 0, 1], bool), 10)
    chart = reliability(rows)
    frame = chart.frame
    low, high = chart.bins
    assert (low.x, low.y) == (frame.x(0.15), frame.y(1.0))
    assert (high.x, high.y) == (frame.x((0.95 + 0.95 + 1) / 3), frame.y(2 / 3))
    assert high.high < high.y < high.low  # upwards is less
    assert chart.most == 3
    few, most = chart.bars
    assert few.height == pytest.approx(most.height / 3, abs=0.1)
    assert few.y + few.height == most.y + most.height == chart.base
    assert frame.x(0.9) < most.x < most.x + most.width < frame.x(1.0)


def test_reliability_of_nothing() -> None:
    chart = reliability(reliability_rows(np.empty(0), np.empty(0, bool)))
    assert (chart.bins, chart.bars, chart.most) == ([], [], 0)


@given(st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=60))
def test_reliability_stays_in_its_frame(images: list[tuple[float, bool]]) -> None:
    scores, correct = (np.array(column) for column in zip(*images, strict=True))
    chart = reliability(reliability_rows(scores, correct))
    for mark in chart.bins:
        _within(chart.frame, [(mark.x, y) for y in (mark.high, mark.y, mark.low)])
    assert all(bar.height >= 1 and bar.width > 1 for bar in chart.bars)
    assert min(bar.y for bar in chart.bars) > chart.frame.bottom  # clear of the plot


def test_coverage_by_hand() -> None:
    scores = np.linspace(1.0, 0.5, 100)
    correct = np.arange(100) < 96
    test = {"coverage": 0.5, "precision": 0.98, "precision_interval": [0.93, 1.0]}
    chart = coverage(coverage_curve(scores, correct), 0.95, test)
    frame = chart.frame
    at = {text: y for y, text in chart.y_ticks}
    assert chart.precision[0] == (frame.x(0.01), at["100%"])
    assert chart.precision[-1][0] == frame.right
    assert chart.target is not None
    assert at["90%"] > chart.target > chart.precision[-1][1] > at["100%"]
    assert chart.chosen is not None
    assert (chart.chosen.x, chart.chosen.high) == (frame.x(0.5), at["100%"])
    # The bound of the first few images would need an axis from 0, so it starts later.
    assert len(chart.lower) < len(chart.precision)
    assert chart.y_ticks[0][1] == "70%"
    assert len(chart.band) == 2 * len(chart.precision)


def test_coverage_without_thresholds() -> None:
    rows = coverage_curve(np.array([0.9]), np.array([False]))
    chart = coverage(rows)
    assert (chart.target, chart.chosen) == (None, None)
    assert chart.precision == [(chart.frame.right, chart.frame.bottom)]
    none = {"coverage": 0.0, "precision": None, "precision_interval": None}
    assert coverage(rows, 0.99, none).chosen is None


@given(
    st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=300),
    st.one_of(st.none(), st.floats(0.01, 0.999)),
)
def test_coverage_stays_in_its_frame(
    images: list[tuple[float, bool]], target: float | None
) -> None:
    scores, correct = (np.array(column) for column in zip(*images, strict=True))
    chart = coverage(coverage_curve(scores, correct), target)
    _within(chart.frame, [*chart.precision, *chart.lower, *chart.band])
    if chart.target is not None:
        assert chart.frame.top <= chart.target <= chart.frame.bottom


def _within(frame: Frame, points: list[tuple[float, float]]) -> None:
    for x, y in points:
        assert frame.left <= x <= frame.right
        assert frame.top <= y <= frame.bottom


def test_activity_by_hand() -> None:
    hours = [0] * 24
    hours[0], hours[12], hours[23] = 10, 20, 1
    chart = activity(hours)
    frame = chart.frame
    assert [text for _, text in chart.y_ticks] == ["0", "5", "10", "15", "20"]
    assert [text for _, text in chart.x_ticks] == ["0:00", "6:00", "12:00", "18:00", "24:00"]
    night, noon, last = chart.bars
    assert noon.y == frame.top
    assert noon.height == 2 * night.height == frame.bottom - frame.top
    assert night.x == frame.left + 1
    assert noon.x == frame.x(0.5) + 1
    assert last.x + last.width == pytest.approx(frame.right - 1, abs=0.11)


def test_activity_without_an_image() -> None:
    assert activity([0] * 24).bars == []
