"""What `score` and `rescore` return: a summary of the predictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monkeyray.console import Result, counted
from monkeyray.images.boxes import PASSED
from monkeyray.runs.run import Run
from monkeyray.runs.workers.worker import SPENT
from monkeyray.scoring.schema import SCORED

#: The exit code of a command that could score no image at all.
NOTHING_SCORED = 3


def nothing_scored(statuses: Counter[str]) -> bool:
    """Whether no image at all could be scored or passed through with its detection."""
    return statuses.total() > 0 and not any(statuses[each] for each in (*SCORED, *PASSED))


@dataclass(frozen=True, repr=False)
class Summary(Result):
    """Summary of a scoring. `scored`: images of this call; `already`: images scored before;
    `boxes`: whether rows are boxes; `spent`: the workers' nanoseconds by worker.SPENT; `excluded`:
    rows with another label because of --allowed, by the label that it excludes."""

    uri: str
    statuses: Counter[str]
    labels: Counter[str]
    decisions: Counter[str]
    names: dict[str, str]
    notes: dict[str, Any]
    scored: int
    already: int
    seconds: float
    boxes: bool = False
    spent: Counter[str] = field(default_factory=Counter)
    excluded: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, run: Run, totals: Mapping[str, Counter[str]], names: dict[str, str], scored: int,
        seconds: float, spent: Counter[str] | None = None,
    ) -> Summary:  # fmt: skip
        """The summary of a finished run. `totals`: those of `Run.finish`; the others as above."""
        return cls(
            str(run.place), totals["status"], totals["label"], totals["decision"], names, run.notes,
            scored, run.rows - scored, seconds, bool(run.identity.get("detections")),
            spent or Counter(), totals["excluded_label"],
        )  # fmt: skip

    @property
    def images(self) -> int:
        """Rows in the predictions."""
        return self.statuses.total()

    @property
    def exit_code(self) -> int:
        """Its command's exit code, 3 if no image could be scored."""
        return NOTHING_SCORED if nothing_scored(self.statuses) else 0

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `predictions`, their place; `images`, the number of rows (with
        `boxes`, one per box or image without one), of which this call made `scored_now` and earlier
        ones `already_there`; rows by `statuses`, `labels` and `decisions`, and those with
        another label because of --allowed by their `excluded_labels`; `seconds` and
        `images_per_second`, including start-up, null if none was scored; `worker_seconds` of all
        workers, by fetch, decode, compute and write; `notes`, counts by sentences for people."""
        return {
            "predictions": self.uri,
            "images": self.images,
            "boxes": self.boxes,
            "scored_now": self.scored,
            "already_there": self.already,
            "statuses": dict(self.statuses),
            "labels": dict(self.labels),
            "decisions": dict(self.decisions),
            "excluded_labels": dict(self.excluded),
            "seconds": self.seconds,
            "images_per_second": self.scored / self.seconds if self.scored else None,
            "worker_seconds": {name: self.spent[name] / 1e9 for name in SPENT},
            "notes": self.notes,
        }

    def __str__(self) -> str:
        unit = "one per box or image without one" if self.boxes else "one per image"
        first = f"{counted(self.images, 'row')}, {unit}"
        if self.already:
            first += f" ({self.already} already there, {self.scored} scored now)"
        lines = [f"{first}, by status:"]
        lines += [f"  {count:>9} {status}" for status, count in self.statuses.most_common()]
        lines += [f"the scored {'boxes' if self.boxes else 'images'}, by label:"]
        for label, count in self.labels.most_common():
            name = self.names.get(label, label)
            lines.append(f"  {count:>9} {label}" + (f" ({name})" if name != label else ""))
        if self.decisions:
            counts = (f"{count} {what}" for what, count in self.decisions.most_common())
            lines.append(", ".join(counts))
        if self.excluded:
            some = ", ".join(f"{label} {count}" for label, count in self.excluded.most_common(5))
            lines.append(
                f"{self.excluded.total()} with another label because of --allowed, which excludes "
                f"their likeliest: {some}"
            )
        lines += [f"{note}: {count}" for note, count in self.notes.items() if count]
        if self.scored:
            lines.append(
                f"{self.scored / self.seconds:.1f} images/s over {self.seconds:.0f} s, including "
                "start-up"
            )
        if self.spent.total():
            shares = {name: self.spent[name] / self.spent.total() for name in SPENT}
            lines.append(
                "workers' time: {fetch:.0%} waiting for images, {decode:.0%} decoding, "
                "{compute:.0%} in the network, {write:.0%} writing".format(**shares)
            )
        lines.append(f"predictions in {self.uri}")
        if self.exit_code:
            lines.append(
                "NO IMAGE WAS SCORED: the column error gives the reasons. If the paths are wrong, "
                "correct them and score with --overwrite; if they are readable by now, score with "
                "--retry-failed"
            )
        return "\n".join(lines)
