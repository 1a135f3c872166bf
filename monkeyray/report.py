"""The report of a model: one HTML page that needs nothing beside itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from monkeyray.metrics import wilson

#: The plot inside the template's viewBox of 480 x 280, the rest is for texts.
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 470, 44, 230
_DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Chart:
    """A measure over the epochs, in SVG coordinates. A tick is a position and its text."""

    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    train: list[tuple[float, float]]
    validation: list[tuple[float, float]]
    best_x: float | None
    left: int = _LEFT
    right: int = _RIGHT
    top: int = _TOP
    bottom: int = _BOTTOM


def _percent(share: float | None) -> str:
    """One decimal, and 100.0 only where it is really all of them."""
    if share is None:
        return _DASH
    return f"{100 * share if share >= 1 else min(100 * share, 99.9):.1f}%"


def _interval(metrics: Mapping[str, Any]) -> str:
    bounds = wilson(metrics["accuracy"], metrics["images"])
    return f"{_percent(bounds[0])[:-1]}{_DASH}{_percent(bounds[1])}" if bounds else _DASH


def _plain(value: Any) -> str:
    """Any JSON value in words."""
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _steps(low: float, high: float, least: float = 0.0) -> list[float]:
    """Round numbers 1, 2 or 5 times a power of ten apart that enclose low to high."""
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = max(least, next(power * k for k in (1, 2, 5, 10) if (high - low) / (power * k) <= 5))
    # 0.3 / 0.1 is a hair below 3, which floor would take for 2
    first, last = math.floor(round(low / step, 9)), math.ceil(round(high / step, 9))
    return [round(k * step, 12) for k in range(first, last + 1)]


def _chart(history: Sequence[Mapping[str, Any]], measure: str, best: int | None) -> Chart:
    series = {
        part: [
            (row["epoch"], float(row[f"{part}_{measure}"]))
            for row in history
            if row[f"{part}_{measure}"] is not None and math.isfinite(row[f"{part}_{measure}"])
        ]
        for part in ("train", "validation")
    }
    values = [value for points in series.values() for _, value in points]
    accuracy = measure == "accuracy"
    ys = _steps(min([0.95, *values]), 1.0) if accuracy else _steps(0.0, max([0.01, *values]))
    epochs = [row["epoch"] for row in history] or [1]
    start, end = float(min(epochs)) - 0.5, float(max(epochs)) + 0.5  # one epoch has room too

    def x(epoch: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (epoch - start) / (end - start), 1)

    def y(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (value - ys[0]) / (ys[-1] - ys[0]), 1)

    return Chart(
        x_ticks=[(x(e), f"{e:g}") for e in _steps(start, end, least=1.0) if start <= e <= end],
        y_ticks=[(y(v), f"{100 * v:g}%" if accuracy else f"{v:g}") for v in ys],
        train=[(x(epoch), y(value)) for epoch, value in series["train"]],
        validation=[(x(epoch), y(value)) for epoch, value in series["validation"]],
        best_x=None if best is None else x(best),
    )


def _mixups(confusion: Sequence[Sequence[int]]) -> list[tuple[int, int, int, int]]:
    """The most frequent errors: count, images of the true label, true and predicted index."""
    errors = [
        (count, sum(row), true, predicted)
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return sorted(errors, key=lambda error: (-error[0], *error[1:]))[:8]


_ENVIRONMENT = Environment(
    loader=PackageLoader("monkeyray"),
    autoescape=True,  # labels and names come from whoever made the data set
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"percent": _percent, "interval": _interval, "plain": _plain}


def render_report(model: Mapping[str, Any]) -> str:
    """The HTML page for the content of a bundle's model.json."""
    metrics = model["metrics"]
    labels = sorted(model["labels"], key=lambda label: int(label["index"]))
    totals = [sum(row) for row in metrics["test"]["confusion"]]
    return _ENVIRONMENT.get_template("report.html.j2").render(
        model=model,
        labels=labels,
        known={label["label"]: label for label in labels},
        totals=totals,
        commonest=max(totals) / sum(totals) if any(totals) else None,
        mixups=_mixups(metrics["test"]["confusion"]),
        charts={
            measure: _chart(metrics["history"], measure, metrics["best_epoch"])
            for measure in ("loss", "accuracy")
        },
    )
