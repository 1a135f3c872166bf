"""SVG coordinates of the charts of reports and reviews."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

Point = tuple[float, float]

#: A position along an axis and its label.
Tick = tuple[float, str]

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Frame:
    """The plot area inside an SVG of `width` x `height`; the margins hold text."""

    width: int = 480
    height: int = 280
    left: int = 52
    right: int = 460
    top: int = 44
    bottom: int = 230

    def x(self, share: float) -> float:
        """From 0, the left edge, to 1, the right edge."""
        return round(self.left + (self.right - self.left) * share, 1)

    def y(self, share: float) -> float:
        """From 0, the bottom edge, to 1, the top edge; SVG's y axis points down."""
        return round(self.bottom - (self.bottom - self.top) * share, 1)


@dataclass(frozen=True)
class Curves:
    """A measure over the epochs. `best`: the position and number of the kept epoch."""

    frame: Frame
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    train: list[Point]
    validation: list[Point]
    best: tuple[float, int] | None


@dataclass(frozen=True)
class Whisker:
    """A value and its interval, vertical."""

    x: float
    y: float
    high: float
    low: float


@dataclass(frozen=True)
class Bar:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Reliability:
    """Accuracy against score in bins, and below it a histogram of the images.

    `most`: images in the fullest bin, whose bar has the full height.
    """

    frame: Frame
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bins: list[Whisker]
    bars: list[Bar]
    base: float
    most: int


@dataclass(frozen=True)
class Coverage:
    """Precision against the share of accepted images.

    `band`: the polygon between the precision and its lower bound. `chosen`: the result of the
    model's thresholds.
    """

    frame: Frame
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    precision: list[Point]
    lower: list[Point]
    band: list[Point]
    target: float | None
    chosen: Whisker | None


@dataclass(frozen=True)
class Activity:
    """Images by hour of day, one bar for each hour from 0 to 23."""

    frame: Frame
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: list[Bar]


def steps(low: float, high: float, least: float = 0.0) -> list[float]:
    """Ticks from `low` or below to `high` or above, 1, 2 or 5 times a power of ten apart, and at
    least `least`.

    >>> steps(0.87, 1.0)
    [0.85, 0.9, 0.95, 1.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = max(least, next(power * k for k in (1, 2, 5, 10) if (high - low) / (power * k) <= 5))
    # 0.3 / 0.1 is slightly below 3, which floor would make 2.
    first, last = math.floor(round(low / step, 9)), math.ceil(round(high / step, 9))
    return [round(k * step, 12) for k in range(first, last + 1)]


def curves(history: Rows, measure: str, best: int | None) -> Curves:
    """The `loss` or the `accuracy` of train and validation over the epochs.

    Rows have `epoch`, `train_…` and `validation_…` of the measure; values that are None or not
    finite are left out.
    """
    frame = Frame()
    series = {
        split: [
            (row["epoch"], float(row[f"{split}_{measure}"]))
            for row in history
            if row[f"{split}_{measure}"] is not None and math.isfinite(row[f"{split}_{measure}"])
        ]
        for split in ("train", "validation")
    }
    values = [value for points in series.values() for _, value in points]
    accuracy = measure == "accuracy"
    ys = steps(min([0.95, *values]), 1.0) if accuracy else steps(0.0, max([0.01, *values]))
    epochs = [row["epoch"] for row in history] or [1]
    start, end = float(min(epochs)) - 0.5, float(max(epochs)) + 0.5  # makes room for a single epoch

    def x(epoch: float) -> float:
        return frame.x((epoch - start) / (end - start))

    def y(value: float) -> float:
        return frame.y((value - ys[0]) / (ys[-1] - ys[0]))

    return Curves(
        frame,
        x_ticks=[(x(e), f"{e:g}") for e in steps(start, end, least=1.0) if start <= e <= end],
        y_ticks=[(y(v), _percent(v) if accuracy else f"{v:g}") for v in ys],
        train=[(x(epoch), y(value)) for epoch, value in series["train"]],
        validation=[(x(epoch), y(value)) for epoch, value in series["validation"]],
        best=None if best is None else (x(best), best),
    )


def reliability(rows: Rows) -> Reliability:
    """The diagram of `calibration.reliability`'s rows; an empty bin has no dot and no bar."""
    frame = Frame(height=350, top=16, bottom=210)
    full = [row for row in rows if row["images"]]
    most = max((row["images"] for row in full), default=0)
    base, room = 324.0, 56.0
    bars = []
    for row in full:
        left, right = frame.x(row["low"]), frame.x(row["high"])
        height = max(1.0, round(room * row["images"] / most, 1))  # even a single image is visible
        bars.append(Bar(left + 1, round(base - height, 1), round(right - left - 2, 1), height))
    shares = [k / 5 for k in range(6)]
    return Reliability(
        frame,
        x_ticks=[(frame.x(share), f"{share:g}") for share in shares],
        y_ticks=[(frame.y(share), _percent(share)) for share in shares],
        bins=[
            _whisker(frame.x(row["confidence"]), row["accuracy"], row["interval"], frame.y)
            for row in full
        ],
        bars=bars,
        base=base,
        most=most,
    )


def coverage(
    rows: Rows, target: float | None = None, test: Mapping[str, Any] | None = None
) -> Coverage:
    """The curve of `thresholds.coverage_curve`'s rows, with the target and the result on test.

    `test`: has `coverage`, `precision` and `precision_interval`, the last two possibly None. The
    axis ignores the bounds of the first few images, which are near 0.
    """
    frame = Frame()
    floor = [row["lower"] for row in rows if row["coverage"] >= 0.1]
    floor += [row["precision"] for row in rows if row["coverage"] >= 0.05]
    reached = test if test is not None and test["precision"] is not None else None
    if reached is not None:
        floor += [reached["precision"], *(reached["precision_interval"] or [])]
    ys = steps(min([0.95, *([] if target is None else [target]), *floor]), 1.0)

    def y(value: float) -> float:
        return frame.y(max(value - ys[0], 0.0) / (ys[-1] - ys[0]))

    precision = [(frame.x(row["coverage"]), y(row["precision"])) for row in rows]
    lower = [(frame.x(row["coverage"]), y(row["lower"])) for row in rows]
    seen = [row["lower"] >= ys[0] for row in rows]
    return Coverage(
        frame,
        x_ticks=[(frame.x(k / 5), _percent(k / 5)) for k in range(6)],
        y_ticks=[(y(v), _percent(v)) for v in ys],
        precision=precision,
        lower=list(compress(lower, seen)),
        band=[*precision, *reversed(lower)],
        target=None if target is None else y(target),
        chosen=None
        if reached is None
        else _whisker(
            frame.x(reached["coverage"]), reached["precision"], reached["precision_interval"], y
        ),
    )


def activity(hours: Sequence[int]) -> Activity:
    """The bars of 24 counts; an hour without images has no bar."""
    frame = Frame(top=16)
    ys = steps(0, max([1, *hours]), least=1.0)
    width = (frame.right - frame.left) / 24
    bars = []
    for hour, count in enumerate(hours):
        if count:
            # Even a single image among thousands is visible.
            height = max(1.0, round((frame.bottom - frame.top) * count / ys[-1], 1))
            left = round(frame.left + hour * width + 1, 1)
            bars.append(Bar(left, round(frame.bottom - height, 1), round(width - 2, 1), height))
    return Activity(
        frame,
        x_ticks=[(frame.x(hour / 24), f"{hour}:00") for hour in range(0, 25, 6)],
        y_ticks=[(frame.y(value / ys[-1]), f"{value:,.0f}") for value in ys],
        bars=bars,
    )


def _whisker(x: float, value: float, interval: Sequence[float] | None, y: Any) -> Whisker:
    low, high = interval or (value, value)
    return Whisker(x, y(value), y(high), y(low))


def _percent(share: float) -> str:
    return f"{round(100 * share, 9):g}%"
