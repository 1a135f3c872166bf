"""Metrics of a running job for Ray, and through Ray for Prometheus.

The driver records them once a second from the counts of its progress line, so they cost nothing per
image. Ray exports them on each node every ten seconds, with the prefix `ray_`; counters end in
`_total`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monkeyray.console import Pace


class Meter:
    """The metrics of one pass over images.

    `task`: scoring, rescoring or embedding. `run`: the URI of its output. `planned`: the number of
    images to do.
    """

    def __init__(self, task: str, run: str, planned: int) -> None:
        from ray.util import metrics

        tags = _tags(task, run)

        def make(kind: Any, name: str, text: str, *more: str) -> Any:
            return kind(f"monkeyray_{name}", text, (*tags, *more)).set_default_tags(tags)

        self._images = Total(
            make(metrics.Counter, "images", "Images done, by their rows' status.", "status"),
            "status",
        )
        self._bytes = Total(make(metrics.Counter, "bytes", "Bytes of the images read."))
        self._seconds = Total(
            make(
                metrics.Counter,
                "worker_seconds",
                "Workers' time by activity: fetch (waiting for images), decode, compute, "
                "write. Updated with each file.",
                "step",
            ),
            "step",
        )
        self._rate = make(
            metrics.Gauge, "images_per_second", "Images done per second, over the last minute."
        )
        self._to_do = make(metrics.Gauge, "images_planned", "Images that this call has to process.")
        self._planned = planned
        self._pace = Pace()

    def images(self, rows: Mapping[str, int], read_bytes: int) -> None:
        """Record all rows so far, by status, and all bytes read."""
        self._images.reach(rows)
        self._bytes.reach({"": read_bytes})
        # Ray drops a gauge that is not set for a while.
        self._rate.set(self._pace.rate(sum(rows.values())))
        self._to_do.set(self._planned)

    def spent(self, nanoseconds: Mapping[str, int]) -> None:
        """Record the workers' time so far, by worker.SPENT."""
        self._seconds.reach({step: spent / 1e9 for step, spent in nanoseconds.items()})

    def close(self) -> None:
        """Set the rate to zero; otherwise a long-lived process would repeat the last one."""
        self._rate.set(0)


class EpochMeter:
    """The metrics of one training. `task`: training or fine-tuning. `run`: the model's URI."""

    def __init__(self, task: str, run: str) -> None:
        from ray.util import metrics

        tags = _tags(task, run)
        self._gauges = {
            key: metrics.Gauge(f"monkeyray_{key}", text, tuple(tags)).set_default_tags(tags)
            for key, text in (
                ("epoch", "Epochs done."),
                ("train_loss", "Of the last epoch, without the L2 penalty."),
                ("train_accuracy", "Of the last epoch."),
                ("validation_loss", "After the last epoch."),
                ("validation_accuracy", "After the last epoch."),
            )
        }

    def epoch(self, figures: Mapping[str, Any]) -> None:
        """Record the figures of the last epoch; call it repeatedly, because Ray drops gauges."""
        for key, gauge in self._gauges.items():
            if figures.get(key) is not None:
                gauge.set(float(figures[key]))


def _tags(task: str, run: str) -> dict[str, str]:
    # Ray takes only ASCII.
    return {"task": task, "run": run.encode("ascii", "backslashreplace").decode()}


class Total:
    """A counter of Ray that is set to totals. `tag`: the tag whose values their keys are."""

    def __init__(self, counter: Any, tag: str | None = None) -> None:
        self._counter = counter
        self._tag = tag
        self._told: dict[str, float] = {}

    def reach(self, totals: Mapping[str, float]) -> None:
        """Raise the counter to these totals."""
        for key, total in totals.items():
            more = total - self._told.get(key, 0)
            if more < 0:  # the count restarts after a node is lost
                more = total
            if more > 0:
                self._counter.inc(more, None if self._tag is None else {self._tag: key})
            self._told[key] = total
