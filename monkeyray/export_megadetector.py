"""Predictions as MegaDetector batch results, which Timelapse and others read.

The format is 1.6 of megadetector-output-format.md in agentmorris/MegaDetector. Whole images are
scored here, so the one detection of an image has the box of the whole of it; its confidence is the
score of the first label, and the classifications are the labels listed. A blank has no detection.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from monkeyray.errors import InputError
from monkeyray.export_rows import Predictions, relative
from monkeyray.progress import Advance
from monkeyray.storage import Storage
from monkeyray.taxa import RANKS, Taxa, Taxon

FORMAT_VERSION = "1.6"

#: The categories of MegaDetector; what is neither a person nor a vehicle is an animal, as far as
#: the format goes, which knows no other.
_DETECTIONS = {"1": "animal", "2": "person", "3": "vehicle"}
_CATEGORY = {"animal": "1", "unknown": "1", "human": "2", "vehicle": "3"}

#: A video needs a frame rate in this format, which is not known here.
_VIDEOS = (".mp4", ".avi", ".mpeg", ".mpg", ".mov", ".mkv", ".m4v", ".wmv", ".flv", ".webm")

_COLUMNS = ["uri", "status", "error", "label", "score", "top_k"]


@dataclass(frozen=True)
class Seen:
    """What is in predictions: labels in order, models, and when the last row was made."""

    labels: list[str]
    models: list[str]
    latest: datetime | None


@dataclass
class Counts:
    """Images by kind of detection, videos that were left out."""

    kinds: Counter[str] = field(default_factory=Counter)
    videos: int = 0


def survey(predictions: Predictions) -> Seen:
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
    return Seen(sorted(x for x in labels if x), sorted(x for x in models if x), latest)


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
        first = True
        for table in predictions.tables(_COLUMNS, advance):
            lines = [
                json.dumps(image, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
                for image in _images(table.to_pydict(), root, taxa, numbers, counts)
            ]
            if lines:
                file.write((("\n" if first else ",\n") + ",\n".join(lines)).encode())
                first = False
        file.write(b"\n ]\n}\n")
    return counts


def _info(predictions: Predictions, seen: Seen) -> dict[str, Any]:
    from importlib.metadata import version

    info: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        # Without this field readers take a file for one of MegaDetector 4.
        "detector": "none, whole images",
        "classifier": f"MonkeyRay {', '.join(seen.models)}",
        "summary_report": f"Whole images, scored by MonkeyRay {version('monkeyray')}",
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
    rows: dict[str, list[Any]], root: str, taxa: Taxa, numbers: dict[str, str], counts: Counts
) -> Iterator[dict[str, Any]]:
    for uri, status, error, label, score, top_k in zip(
        *(rows[name] for name in _COLUMNS), strict=True
    ):
        path = relative(uri, root)
        if path is None:
            raise InputError(
                f"{uri} is not below {root}: give as --relative-to the folder that Timelapse has "
                "the images in"
            )
        if label is None:
            if path.lower().endswith(_VIDEOS):
                counts.videos += 1
                continue
            counts.kinds["failure"] += 1
            failure = f"{status}: {error}" if error else status
            yield {"file": path, "failure": failure, "detections": None}
            continue
        taxon = taxa.of(label)
        counts.kinds[taxon.kind] += 1
        image: dict[str, Any] = {"file": path, "detections": []}
        if taxon.kind != "blank":
            image["detections"].append(
                {
                    "category": _CATEGORY[taxon.kind],
                    "conf": _score(score),
                    "bbox": [0, 0, 1, 1],
                    "classifications": [
                        [numbers[item["label"]], _score(item["score"])] for item in top_k
                    ],
                }
            )
        yield image


def _score(score: float) -> float:
    # Of a float32, the digits after these say nothing; a softmax may sum to a hair above 1.
    return min(round(score, 6), 1.0)
