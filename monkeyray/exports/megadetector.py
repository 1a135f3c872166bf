"""Predictions as MegaDetector batch results, which Timelapse and others read.

The format is 1.6 of megadetector-output-format.md in agentmorris/MegaDetector. Where whole images
were scored, the one detection of an image has the box of the whole of it; its confidence is the
score of the first label, and the classifications are the labels listed. A blank has no detection.
Where boxes were scored, they are the detections, with the detector's confidence.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from monkeyray import __version__
from monkeyray.console import Advance
from monkeyray.errors import InputError
from monkeyray.exports.rows import relative, tidy_box
from monkeyray.exports.taxonomy import RANKS, Taxa, Taxon
from monkeyray.images.boxes import ANIMAL, OBSERVED, PASSED
from monkeyray.runs.reader import Predictions
from monkeyray.storage.store import Storage

FORMAT_VERSION = "1.6"

#: The categories of MegaDetector; what is neither a person nor a vehicle is an animal, as far as
#: the format goes, which knows no other.
_DETECTIONS = {"1": "animal", "2": "person", "3": "vehicle"}
_CATEGORY = {"animal": "1", "unknown": "1", "human": "2", "vehicle": "3"}

#: A video needs a frame rate in this format, which is not known here.
_VIDEOS = (".mp4", ".avi", ".mpeg", ".mpg", ".mov", ".mkv", ".m4v", ".wmv", ".flv", ".webm")

_COLUMNS = ["uri", "status", "error", "label", "score", "top_k"]


@dataclass(frozen=True)
class Surveyed:
    """What is in predictions: labels in order, models, and when the last row was made."""

    labels: list[str]
    models: list[str]
    latest: datetime | None


@dataclass
class Counts:
    """Images by kind of detection, videos that were left out."""

    kinds: Counter[str] = field(default_factory=Counter)
    videos: int = 0


def survey(predictions: Predictions) -> Surveyed:
    """One pass over the rows, so that the labels have the same numbers in every export of them."""
    labels: set[str] = set()
    models: set[str] = set()
    latest: datetime | None = None
    for table in predictions.tables(["label", "top_k", "model_id", "predicted_at"]):
        listed = pc.struct_field(pc.list_flatten(table["top_k"].combine_chunks()), "label")
        labels.update(pc.unique(listed).to_pylist(), pc.unique(table["label"]).to_pylist())
        models.update(pc.unique(table["model_id"]).to_pylist())
        newest = pc.max(table["predicted_at"]).as_py()
        latest = max(filter(None, (latest, newest)), default=None)
    # None is no label: of rows that were not scored.
    return Surveyed(sorted(x for x in labels if x), sorted(x for x in models if x), latest)


def export_megadetector(
    predictions: Predictions,
    uri: str,
    storage: Storage,
    *,
    root: str,
    taxa: Taxa,
    advance: Advance,
) -> Counts:
    """Write the rows into one JSON file, an image a line. Paths are relative to `root`.

    Raises InputError for an image that is not below it.
    """
    seen = survey(predictions)
    numbers = {label: str(number) for number, label in enumerate(seen.labels)}
    counts = Counts()
    head: dict[str, Any] = {
        "info": _info(predictions, seen),
        "detection_categories": _DETECTIONS,
        "classification_categories": {n: taxa.of(x).name for x, n in numbers.items()},
        "classification_category_descriptions": {
            n: _describe(taxa.of(x)) for x, n in numbers.items()
        },
    }
    with storage.writing(uri) as file:
        text = json.dumps(head, indent=1, ensure_ascii=False)
        file.write(text[: text.rindex("\n")].encode() + b',\n "images": [')
        divide = "\n"
        for image in _images(predictions, root, taxa, numbers, counts, advance):
            line = json.dumps(image, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            file.write((divide + line).encode())
            divide = ",\n"
        file.write(b"\n ]\n}\n")
    return counts


def _info(predictions: Predictions, seen: Surveyed) -> dict[str, Any]:
    boxes = predictions.run.identity.get("detections")
    info: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        # Without this field readers take a file for one of MegaDetector 4.
        "detector": "that of the boxes given" if boxes else "none, whole images",
        "classifier": f"MonkeyRay {', '.join(seen.models)}",
        "summary_report": f"{'Boxes' if boxes else 'Whole images'}, scored by MonkeyRay "
        + __version__,
    }
    if seen.latest is not None:
        info["classification_completion_time"] = f"{seen.latest:%Y-%m-%d %H:%M:%S}"
    threshold = predictions.run.identity.get("threshold")
    if isinstance(threshold, int | float):
        info["classifier_metadata"] = {"typical_classification_threshold": threshold}
    return info


def _describe(taxon: Taxon) -> str:
    """A taxon from its kingdom down, in the manner of the format's example; else its label."""
    names = [taxon.rest.get(rank) for rank in RANKS] + [taxon.scientific_name]
    return ";".join(name.lower() for name in names if name) or taxon.label


def _images(
    predictions: Predictions,
    root: str,
    taxa: Taxa,
    numbers: dict[str, str],
    counts: Counts,
    advance: Advance,
) -> Iterator[dict[str, Any]]:
    columns = [*_COLUMNS, *predictions.box_columns]
    tables = predictions.tables(columns, advance)
    rows = (row for table in tables for row in table.to_pylist())
    # The boxes of an image follow each other.
    for uri, group in itertools.groupby(rows, key=lambda row: row["uri"]):
        path = relative(uri, root)
        if path is None:
            raise InputError(
                f"{uri} is not below {root}: give as --relative-to the folder that Timelapse has "
                "the images in"
            )
        its = list(group)
        failed = [row for row in its if row["label"] is None and row["status"] not in PASSED]
        if len(failed) < len(its):
            yield {"file": path, "detections": _detections(its, taxa, numbers, counts)}
        elif path.lower().endswith(_VIDEOS):
            counts.videos += 1
        else:
            counts.kinds["failure"] += 1
            status, error = failed[0]["status"], failed[0]["error"]
            failure = f"{status}: {error}" if error else status
            yield {"file": path, "failure": failure, "detections": None}


def _detections(
    rows: list[dict[str, Any]], taxa: Taxa, numbers: dict[str, str], counts: Counts
) -> list[dict[str, Any]]:
    """The detections of an image, of which at least one row is no failure."""
    found = []
    for row in rows:
        category = row.get("detection_category", ANIMAL)
        label, kind = row["label"], OBSERVED.get(category, "animal")
        if label is not None:
            kind = taxa.of(label).kind
        counts.kinds[kind] += 1
        boxed = row.get("detection_bbox")
        if kind == "blank" and boxed is None:
            continue
        # Where a detector says that a box is of an animal, it is one, whatever the label.
        detection: dict[str, Any] = {
            "category": _CATEGORY[OBSERVED.get(category, "animal") if boxed else kind],
            "conf": _score(row["detection_conf"] if boxed else row["score"]),
            "bbox": tidy_box(boxed) if boxed else [0, 0, 1, 1],
        }
        if label is not None:
            detection["classifications"] = [
                [numbers[item["label"]], _score(item["score"])] for item in row["top_k"]
            ]
        found.append(detection)
    return found


def _score(score: float) -> float:
    # Of a float32, the digits after these say nothing; a softmax may sum to a hair above 1.
    return min(round(score, 6), 1.0)
