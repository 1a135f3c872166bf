"""The summary of a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from monkeyray.console import Result, counted
from monkeyray.labels.contradictions import describe_contradictions
from monkeyray.options import flag
from monkeyray.statistics.cameras import describe_side


@dataclass(frozen=True, repr=False)
class Trained(Result):
    """The result of a training. `seconds`: by stage. `opened`: images that were decoded.
    `contradictions`: see Contradictions.found."""

    uri: str
    model: dict[str, Any]
    opened: int
    seconds: dict[str, float]
    contradictions: Sequence[dict[str, Any]] = ()

    @property
    def accuracy(self) -> float:
        """The test accuracy, 0 to 1. Without test images: the out-of-fold accuracy, or after
        fine-tuning that of the validation images."""
        metrics = self.model["metrics"]
        return float((metrics["test"] or metrics["estimate"])["accuracy"])

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: the URIs of the `model` and its `report`, the `model_id`, the number
        of `labels`; the number of `images`, `used`, `opened` and, by status, `unusable` ones;
        `epochs_run` and `best_epoch`; `images` and `accuracy` of `test` (None without a given test
        split) and of the `estimate`, with its `source`; `cameras`, the accuracy out of fold at
        `unseen` and `seen` cameras (None if folds are not of locations); `leaks`, test images that
        are also among the training images; `contradictions`, pictures under several labels;
        `seconds` by stage. metrics.json has all figures."""
        data, metrics = self.model["data"], self.model["metrics"]
        test, estimate = (
            found and {key: found[key] for key in ("images", "accuracy")}
            for found in (metrics["test"], metrics["estimate"])
        )
        cameras = metrics["estimate"]["cameras"]
        return {
            "model": self.uri,
            "model_id": self.model["model_id"],
            "report": f"{self.uri}/report.html",
            "labels": len(self.model["labels"]),
            "images": data["images"],
            "used": data["used"],
            "opened": self.opened,
            "unusable": data["unusable"],
            "epochs_run": metrics["epochs_run"],
            "best_epoch": metrics["best_epoch"],
            "test": test,
            "estimate": {"source": metrics["estimate"]["source"], **estimate},
            "cameras": cameras and {side: cameras[side]["accuracy"] for side in ("unseen", "seen")},
            "leaks": data["leaks"],
            "contradictions": len(self.contradictions),
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        data, metrics = self.model["data"], self.model["metrics"]
        rest = self.seconds["start"] + self.seconds["training"] - self.seconds["head"]
        lines = [
            *describe_contradictions(self.contradictions, data["unusable"]),
            f"{data['used']} of {counted(data['images'], 'image')} used, {self.opened} opened;"
            f" copies of another: {data['duplicate_images']}",
            *(
                f"{counted(count, 'image')} could not be used: {status}"
                for status, count in data["unusable"].items()
            ),
            *_rare(data["rare_labels"], data["folds"]),
            *_untested(data["locations"], data["not_by_location"]),
            *_search(metrics["search"]),
            f"trained {counted(metrics['epochs_run'], 'epoch')}, kept epoch {metrics['best_epoch']}"
            f" ({self.seconds['head']:.1f} s; features {self.seconds['features']:.1f} s,"
            f" the rest {rest:.1f} s)",
            *_fine_tuning(metrics["fine_tuning"]),
            *_int8(metrics["int8"]),
            *_calibration(metrics),
            *_thresholds(metrics["thresholds"]),
            _accuracy(metrics["estimate"]["source"], metrics["estimate"]),
            *_cameras(metrics["estimate"]["cameras"]),
            *([_accuracy("test", metrics["test"])] if metrics["test"] else []),
            *_cameras((metrics["test"] or {}).get("cameras")),
            *_more_labels(metrics["learning_curve"]),
            metrics["figures"],
        ]
        if data["leaks"]:
            clean = metrics["test"]["without_leaks"]
            without = f"; accuracy without them {clean['accuracy']:.4f}" if clean else ""
            lines.append(
                f"{counted(data['leaks'], 'test image')} also among the training images{without}"
            )
        return "\n".join(
            [
                *lines,
                f"model  {self.model['model_id'][:12]} in {self.uri}",
                f"report {self.uri}/report.html",
            ]
        )


def _accuracy(source: str, found: dict[str, Any]) -> str:
    low, high = found["accuracy_interval"]
    bounds = f" ({low:.4f} to {high:.4f} with 95% confidence)" if found["cameras"] is None else ""
    images = counted(found["images"], "image")
    return f"{source} accuracy {found['accuracy']:.4f}{bounds} on {images}"


def _cameras(found: dict[str, Any] | None) -> Iterator[str]:
    if found is not None:
        yield from (f"  {describe_side(side, found[side])}" for side in ("unseen", "seen"))


def _untested(found: dict[str, Any] | None, note: str | None) -> Iterator[str]:
    if note is not None:
        yield f"folds are not made of locations: {note}"
    if found is None:
        return
    labels = [f"{row['label']} ({row['locations']})" for row in found["untested"]]
    if labels:
        more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
        yield (
            f"not tested at an unseen camera, at fewer than 3 {found['level']}s: "
            f"{', '.join(labels[:5])}{more}"
        )
    if found["unknown"]:
        unknown = counted(found["unknown"], "image")
        yield f"not tested either, of no known {found['level']}: {unknown}"


def _rare(labels: list[dict[str, Any]], folds: int) -> Iterator[str]:
    if labels:
        some = ", ".join(f"{each['label']} ({_has(each, folds)})" for each in labels[:5])
        more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
        yield (
            f"labels with few images: {some}{more}; add images, or if other labels have far more, "
            "try --class-weights"
        )


def _has(row: dict[str, Any], folds: int) -> str:
    text = f"{row['train']} to train on"
    if row["groups"] == 1:
        text += ", all of one picture or group, so it cannot be measured"
    elif row["groups"] < folds:
        text += f", in {row['groups']} pictures or groups"
    return text + (", no test image" if row["test"] == 0 else "")


def _search(found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    counts = Counter(each["ended"] for each in found["trials"])
    rest = "".join(f", {counts[how]} {how}" for how in ("diverged", "failed") if counts[how])
    best = found["trials"][found["best"]]
    yield f"searched {counted(len(found['trials']), 'trial')} in {found['seconds']:.0f} s{rest}"
    chosen = {name: best[name] for name in ("head", "learning_rate", "l2", "head_seed")}
    yield "best out of fold:" + "".join(
        f" --{flag(name)} {value}" for name, value in chosen.items() if value is not None
    )


def _fine_tuning(figures: dict[str, Any] | None) -> Iterator[str]:
    if figures is None:
        return
    if figures["kept"]:
        before, after = figures["before"], figures["after"]
        yield (
            f"fine-tuned {figures['layers']}: validation loss {before['loss']:.4f} to "
            f"{after['loss']:.4f}, accuracy {before['accuracy']:.4f} to {after['accuracy']:.4f}, "
            f"epoch {figures['best_epoch']}"
        )
    else:
        yield (
            f"fine-tuning {figures['layers']} did not improve validation: keeping the frozen "
            "backbone"
        )
    if figures["diverged"]:
        yield "fine-tuning diverged: lower --fine-tune-rate"


def _int8(figures: dict[str, Any] | None) -> Iterator[str]:
    if figures is None:
        return
    speed = figures["speed"]
    faster = f"int8: {speed['int8'] / speed['float32']:.1f} times as fast as float32"
    if not figures["images"]:
        yield faster
        return
    yield (
        f"{faster}, accuracy {figures['accuracy']['int8']:.4f}, the same label for "
        f"{figures['agreement']:.2%} of {figures['images']} images"
    )


def _more_labels(curve: dict[str, Any] | None) -> Iterator[str]:
    if curve is not None:
        now, twice = (each["accuracy"] for each in curve["expected"])
        yield (
            f"with twice as many labelled images, accuracy would rise by about "
            f"{100 * (twice - now):.1f} percentage points (extrapolated, give or take one)"
        )


def _calibration(metrics: dict[str, Any]) -> Iterator[str]:
    found = metrics["calibration"]
    before, after = found["before"]["ece"], found["after"]["ece"]
    if after is not None:
        cautious = found["temperature"] > 1 and round(after, 3) > round(before, 3)
        why = " (cautious: one more error is assumed than was seen)" if cautious else ""
        yield (
            f"temperature {found['temperature']:.3f} from {found['images']} {found['source']} "
            f"images: calibration error {before:.3f} to {after:.3f}{why}"
        )


def _thresholds(found: dict[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    own = [row for row in found["per_label"] if row["threshold"] is not None]
    rest = len(found["per_label"]) - len(own)
    pooled = found["pooled"]["threshold"]
    lines = []
    if own:
        lines.append(f"a threshold of its own for {len(own)}")
    if rest:
        lines.append(
            f"a shared one of {pooled:.4f} for {rest}" if pooled is not None
            else f"NO threshold for {rest}: too few images, or too many errors, to guarantee it"
        )  # fmt: skip
    results = found["results"]
    yield f"precision {found['target']:g}, by label: {'; '.join(lines)}"
    if results["accepted"]:
        yield (
            f"they accept {results['accepted']} of {counted(results['images'], 'image')}, "
            f"{results['precision']:.4f} of them correct"
        )
