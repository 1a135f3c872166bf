"""The report of a model, as a self-contained HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from monkeyray.pages.charts import coverage, curves, reliability
from monkeyray.pages.template import ENVIRONMENT

#: How many entries of a finding are shown; metrics.json has all.
_LABEL_ERRORS, _GROUPS, _OF_A_GROUP, _RARE, _WARNED, _LOCATIONS = 100, 50, 10, 20, 3, 50

#: How many of a search's trials are shown, best first.
_TRIALS = 10


def _mixups(confusion: Sequence[Sequence[int]]) -> list[tuple[int, int, int, int]]:
    """The most frequent errors: count, images of the true label, true index, predicted index."""
    errors = [
        (count, sum(row), true, predicted)
        for true, row in enumerate(confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return sorted(errors, key=lambda error: (-error[0], *error[1:]))[:8]


def render_report(model: Mapping[str, Any], findings: Mapping[str, Any] | None = None) -> str:
    """The HTML page for the content of a bundle's model.json and the findings in its images.

    `findings` may have the lists `contradictions`, `label_errors`, `leaks`, `duplicates`,
    `mistakes`, `uncertain` and `locations`. A section without figures or findings (absent or None)
    is left out; for an empty list it says "None".
    """
    metrics = model["metrics"]
    labels = sorted(model["labels"], key=lambda label: int(label["index"]))
    by_label = {label["label"]: label for label in labels}
    confusion = (metrics["test"] or metrics["estimate"])["confusion"]
    totals = [sum(row) for row in confusion]
    return ENVIRONMENT.get_template("report.html.j2").render(
        model=model,
        findings=findings or {},
        labels=labels,
        named=lambda label: by_label.get(label) or {"label": label, "name": None},
        totals=totals,
        commonest=max(totals) / sum(totals) if any(totals) else None,
        mixups=_mixups(confusion),
        charts=_charts(metrics),
        search=_search(metrics.get("search")),
        most={
            "label_errors": _LABEL_ERRORS, "groups": _GROUPS, "of_a_group": _OF_A_GROUP,
            "rare": _RARE, "warned": _WARNED, "locations": _LOCATIONS,
        },
    )  # fmt: skip


def _search(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A search with the `chosen` trial, the best trials as `shown`, and the count of each outcome
    as `ends`."""
    if found is None:
        return None
    trials = found["trials"]

    def rank(trial: Mapping[str, Any]) -> tuple[bool, bool, float]:
        # A failed trial has no loss.
        loss = trial["validation_loss"]
        return trial["trial"] != found["best"], loss is None, loss or 0.0

    return dict(found) | {
        "chosen": next(trial for trial in trials if trial["trial"] == found["best"]),
        "shown": sorted(trials, key=rank)[:_TRIALS],
        "ends": Counter(trial["ended"] for trial in trials),
    }


def _charts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    charts: dict[str, Any] = _measures(metrics)
    if (tuned := metrics.get("fine_tuning")) is not None:
        charts["tuned"] = _measures(tuned)
    if (found := metrics.get("calibration")) is not None:
        charts |= {when: reliability(found[when]["reliability"]) for when in ("before", "after")}
    if rows := metrics.get("coverage"):
        thresholds = metrics.get("thresholds") or {}
        charts["coverage"] = coverage(rows, thresholds.get("target"), thresholds.get("results"))
    return charts


def _measures(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        measure: curves(figures["history"], measure, figures["best_epoch"])
        for measure in ("loss", "accuracy")
    }
