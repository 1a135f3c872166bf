"""What Ray's metrics, and through them Prometheus, tell of a job while it runs.

The driver records them, a second apart, from the counts that it has for its progress line, so that
no image costs anything. Ray exports them on each node, every ten seconds, puts `ray_` before their
names, and lets counters end in `_total`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monkeyray.console import Pace


class Meter:
    """The metrics of one pass over images.

    `task`: scoring, rescoring or embedding. `run`: the URI of what it writes. `planned`: images
    that it has to do.
    """

    def __init__(self, task: str, run: str, planned: int) -> None:
        from ray.util import metrics

        tags = _tags(task, run)

        def make(kind: Any, name: str, text: str, *more: str) -> Any:
            return kind(f"monkeyray_{name}", text, (*tags, *more)).set_default_tags(tags)

        self._images = _Total(
            make(metrics.Counter, "images", "Images done, by their rows' status.", "status"),
            "status",
        )
        self._bytes = _Total(make(metrics.Counter, "bytes", "Bytes of the images read."))
        self._seconds = _Total(
            make(
                metrics.Counter,
                "worker_seconds",
                "What the workers' time went into: fetch (waiting for images), decode, compute, "
                "write. Told with each file.",
                "step",
            ),
            "step",
        )
        self._rate = make(
            metrics.Gauge, "images_per_second", "Images done a second, over the last minute."
        )
        self._to_do = make(metrics.Gauge, "images_planned", "Images that this call has to do.")
        self._planned = planned
        self._pace = Pace()

    def images(self, rows: Mapping[str, int], read_bytes: int) -> None:
        """Tell the rows by status and the bytes read, of all so far."""
        self._images.reach(rows)
        self._bytes.reach({"": read_bytes})
        # Ray forgets a gauge that is not set for a while.
        self._rate.set(self._pace.rate(sum(rows.values())))
        self._to_do.set(self._planned)

    def spent(self, nanoseconds: Mapping[str, int]) -> None:
        """Tell the workers' time so far, by pipeline.SPENT."""
        self._seconds.reach({step: spent / 1e9 for step, spent in nanoseconds.items()})

    def close(self) -> None:
        """Tell that nothing is done any more; a process that goes on would repeat the last rate."""
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
        """Tell the figures of the last epoch, again and again: Ray forgets gauges."""
        for key, gauge in self._gauges.items():
            if figures.get(key) is not None:
                gauge.set(float(figures[key]))


def _tags(task: str, run: str) -> dict[str, str]:
    # Ray takes nothing but ASCII.
    return {"task": task, "run": run.encode("ascii", "backslashreplace").decode()}


class _Total:
    """A counter of Ray that is told totals. `tag`: the tag that their keys are values of."""

    def __init__(self, counter: Any, tag: str | None = None) -> None:
        self._counter = counter
        self._tag = tag
        self._told: dict[str, float] = {}

    def reach(self, totals: Mapping[str, float]) -> None:
        """Count up to these."""
        for key, total in totals.items():
            more = total - self._told.get(key, 0)
            if more < 0:  # it was counted anew, after a node was lost
                more = total
            if more > 0:
                self._counter.inc(more, None if self._tag is None else {self._tag: key})
            self._told[key] = total
