"""Predictions as MegaDetector batch results, which Timelapse and others read.

The format is version 1.6 of megadetector-output-format.md in agentmorris/MegaDetector. If whole
images were scored, an image has one detection, whose box is the whole image, confidence the score
of the best label, and classifications the listed labels; a blank has no detection. If boxes were
scored, they are the detections, with the detector's confidence, negative ones too.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from monkeyray import __version__
from monkeyray.errors import InputError
from monkeyray.exports.job import Export, Job
from monkeyray.exports.taxonomy import RANKS, Taxon
from monkeyray.images.boxes import ANIMAL, ELIMINATED, OBSERVED, PASSED, tidy_box
from monkeyray.images.listing import VIDEOS
from monkeyray.runs.reader import Predictions

FORMAT_VERSION = "1.6"

#: MegaDetector's categories. The format has no other, so everything else is an animal.
_DETECTIONS = {"1": "animal", "2": "person", "3": "vehicle"}
_CATEGORY = {"animal": "1", "unknown": "1", "human": "2", "vehicle": "3"}

_COLUMNS = ["uri", "status", "error", "label", "score", "top_k"]


@dataclass(frozen=True)
class _Contents:
    """The labels and models in predictions, sorted, and the time of the last row."""

    labels: list[str]
    models: list[str]
    latest: datetime | None


def _read_contents(predictions: Predictions) -> _Contents:
    """Read all labels first, so that every export numbers them alike."""
    labels: set[str] = set()
    models: set[str] = set()
    latest: datetime | None = None
    for table in predictions.tables(["label", "top_k", "model_id", "predicted_at"]):
        listed = pc.struct_field(pc.list_flatten(table["top_k"].combine_chunks()), "label")
        labels.update(pc.unique(listed).to_pylist(), pc.unique(table["label"]).to_pylist())
        models.update(pc.unique(table["model_id"]).to_pylist())
        newest = pc.max(table["predicted_at"]).as_py()
        latest = max(filter(None, (latest, newest)), default=None)
    # Rows that were not scored have the label None.
    return _Contents(sorted(x for x in labels if x), sorted(x for x in models if x), latest)


def export_megadetector(job: Job) -> Export:
    """Write one JSON file with one image per line.

    Raises InputError for an image that is not below the folder that paths are relative to.
    """
    predictions, taxa = job.predictions, job.taxa
    contents = _read_contents(predictions)
    numbers = {label: str(number) for number, label in enumerate(contents.labels)}
    images = _Images(job, numbers)
    head: dict[str, Any] = {
        "info": _info(predictions, contents),
        "detection_categories": _DETECTIONS,
        "classification_categories": {n: taxa.of(x).name for x, n in numbers.items()},
        "classification_category_descriptions": {
            n: _describe(taxa.of(x)) for x, n in numbers.items()
        },
    }
    with job.storage.writing(job.output) as file:
        text = json.dumps(head, indent=1, ensure_ascii=False)
        file.write(text[: text.rindex("\n")].encode() + b',\n "images": [')
        separator = "\n"
        for image in images:
            line = json.dumps(image, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            # A name that is not UTF-8 is written as MegaDetector does, with escaped surrogates.
            file.write((separator + line).encode("utf-8", "backslashreplace"))
            separator = ",\n"
        file.write(b"\n ]\n}\n")
    notes = (
        (f"videos left out, since they are not scored: {images.videos}",) if images.videos else ()
    )
    return Export(str(job.output), images.kinds, notes=notes)


def _info(predictions: Predictions, contents: _Contents) -> dict[str, Any]:
    boxes = predictions.run.identity.get("detections")
    info: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        # Without this field, readers assume MegaDetector 4.
        "detector": "that of the given boxes" if boxes else "none, whole images",
        "classifier": f"MonkeyRay {', '.join(contents.models)}",
        "summary_report": f"{'Boxes' if boxes else 'Whole images'}, scored by MonkeyRay "
        + __version__,
    }
    if contents.latest is not None:
        info["classification_completion_time"] = f"{contents.latest:%Y-%m-%d %H:%M:%S}"
    threshold = predictions.run.identity.get("threshold")
    if isinstance(threshold, int | float):
        info["classifier_metadata"] = {"typical_classification_threshold": threshold}
    return info


def _describe(taxon: Taxon) -> str:
    """A taxon from its kingdom down, as in the format's example; otherwise its label."""
    names = [taxon.rest.get(rank) for rank in RANKS] + [taxon.scientific_name]
    return ";".join(name.lower() for name in names if name) or taxon.label


class _Images:
    """The images of predictions in the format. `kinds`: images by kind of detection. `videos`: how
    many were left out."""

    def __init__(self, job: Job, numbers: dict[str, str]) -> None:
        self.kinds: Counter[str] = Counter()
        self.videos = 0
        self._job, self._numbers = job, numbers

    def __iter__(self) -> Iterator[dict[str, Any]]:
        job, root = self._job, self._job.source.required_root()
        columns = [*_COLUMNS, *job.predictions.box_columns]
        tables = job.predictions.tables(columns, job.advance)
        rows = (row for table in tables for row in table.to_pylist())
        # The boxes of an image follow each other.
        for uri, group in itertools.groupby(rows, key=lambda row: row["uri"]):
            path = root.below(uri)
            if path is None:
                raise InputError(
                    f"{uri} is not below {root}: give --relative-to, the folder of the images in "
                    "Timelapse"
                )
            boxes = list(group)
            failed = [row for row in boxes if row["label"] is None and row["status"] not in PASSED]
            if len(failed) < len(boxes):
                yield {"file": path, "detections": self._detections(boxes)}
            elif path.lower().endswith(VIDEOS):
                # The format wants the frame rate of a video, and it is unknown.
                self.videos += 1
            else:
                self.kinds["failure"] += 1
                status, error = failed[0]["status"], failed[0]["error"]
                failure = f"{status}: {error}" if error else status
                yield {"file": path, "failure": failure, "detections": None}

    def _detections(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The detections of an image, not all of whose rows failed."""
        found = []
        for row in rows:
            category = row.get("detection_category", ANIMAL)
            label, kind = row["label"], OBSERVED.get(category, "animal")
            if label is not None:
                kind = self._job.taxa.of(label).kind
            self.kinds[ELIMINATED if row["status"] == ELIMINATED else kind] += 1
            box = row.get("detection_bbox")
            if kind == "blank" and box is None:
                continue
            # The detector decides the category of a box, whatever the label.
            detection: dict[str, Any] = {
                "category": _CATEGORY[OBSERVED.get(category, "animal") if box else kind],
                "conf": _score(row["detection_conf"] if box else row["score"]),
                "bbox": tidy_box(box) if box else [0, 0, 1, 1],
            }
            if label is not None:
                detection["classifications"] = [
                    [self._numbers[item["label"]], _score(item["score"])] for item in row["top_k"]
                ]
            found.append(detection)
        return found


def _score(score: float) -> float:
    # A float32 has no more digits, and rounding may take a softmax slightly above 1.
    return min(round(score, 6), 1.0)
