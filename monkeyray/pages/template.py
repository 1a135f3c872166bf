"""The Jinja environment of the pages, and their number formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from monkeyray.statistics.metrics import wilson

_DASH = "\N{EN DASH}"


def _percent(share: float | None) -> str:
    """One decimal; 100.0 only for exactly 1."""
    if share is None:
        return _DASH
    return f"{100 * share if share >= 1 else min(100 * share, 99.9):.1f}%"


def _bounds(interval: Sequence[float] | None) -> str:
    if interval is None:
        return _DASH
    return f"{_percent(interval[0])[:-1]}{_DASH}{_percent(interval[1])}"


def _interval(metrics: Mapping[str, Any]) -> str:
    return _bounds(wilson(metrics["accuracy"], metrics["images"]))


def _score(value: float | None, digits: int = 3) -> str:
    """A score from 0 to 1; 1.000 only for exactly 1."""
    if value is None:
        return _DASH
    return f"{value if value >= 1 else min(value, 1 - 10**-digits):.{digits}f}"


def _plain(value: Any) -> str:
    """Any JSON value as text."""
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return str(value)


def _some(rows: Sequence[Any], count: int) -> list[Any]:
    """At most `count` rows, evenly spaced, including the first and the last."""
    if len(rows) <= count:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]


def _whole(value: Any) -> Any:
    """Escape carriage returns, which browsers would turn into line feeds and so change file
    names."""
    if isinstance(value, str) and "\r" in value and not isinstance(value, Markup):
        return escape(value).replace("\r", Markup("&#13;"))
    return value


#: Of the package's templates.
ENVIRONMENT = Environment(
    loader=PackageLoader("monkeyray.pages"),
    finalize=_whole,
    autoescape=True,  # labels, names and URIs are untrusted
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "percent": _percent, "bounds": _bounds, "interval": _interval, "score": _score,
    "plain": _plain, "some": _some,
}  # fmt: skip
