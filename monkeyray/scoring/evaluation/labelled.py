"""Labelled predictions, from two sources: a model applied to labelled images, or finished
predictions joined with a table of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array, Bytes, Flags
from monkeyray.console import counted
from monkeyray.errors import InputError
from monkeyray.labels.cameras import locations_of, sequences_of
from monkeyray.labels.contradictions import CONTRADICTORY, find_contradictions
from monkeyray.labels.listing import list_labelled
from monkeyray.labels.options import DEFAULTS, LabelOptions
from monkeyray.model.bundle import Bundle
from monkeyray.model.head import head_logits
from monkeyray.model.known_images import MOST_COMPARED, KnownImages
from monkeyray.runs.reader import Predictions, open_predictions
from monkeyray.scoring.allowed import masked
from monkeyray.scoring.evaluation.measure import LabelledPredictions
from monkeyray.scoring.features import Features, mean_views
from monkeyray.scoring.schema import SCORED, check_version, listed_labels, listed_scores
from monkeyray.statistics.duplicates import group_images
from monkeyray.statistics.metrics import softmax
from monkeyray.statistics.outliers import OutlierModel
from monkeyray.statistics.thresholds import decide
from monkeyray.storage.keys import OTHER_FORM, first_of_each, index_in_either_form, string_keys
from monkeyray.storage.store import Storage

#: Names in a list of examples.
SOME = 8

#: The columns of predictions that an evaluation reads, and the label joined with them.
_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("status", pa.string()),
        ("decision", pa.string()),
        ("ood_score", pa.float32()),
        ("top_k", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))),
        ("sha256", pa.string()),
        ("detection_conf", pa.float32()),
        ("given", pa.string()),
        ("location", pa.string()),
        ("sequence", pa.string()),
    ]
)


@dataclass(frozen=True)
class Sample:
    """Labelled predictions and their origin.

    `target`: the precision that the thresholds promised, if known; `root`: the folder or prefix
    that URIs are shown relative to; `data`: counts of images; `compared`: the share of the model's
    training images that these were compared with as pictures; `contradictions`: see
    Contradictions.found.
    """

    predictions: LabelledPredictions
    target: float | None
    model_id: str
    views: tuple[str, ...]
    root: str
    data: dict[str, Any]
    compared: float = 0.0
    contradictions: Sequence[dict[str, Any]] = ()


def from_features(
    bundle: Bundle, views: tuple[str, ...], images: pa.Table, features: Features,
    known: KnownImages | None, root: str, drop: str = "none", mask: Flags | None = None,
) -> Sample:  # fmt: skip
    """The predictions of a bundle for labelled images, from their features.

    `images`: as from list_labelled, in the order of `features`; `known`: the
    bundle's training images, None if unknown; `root` as in Sample; `drop`: as in
    --drop-contradictions; `mask`: the labels that are allowed, bool (n, labels).
    """
    labelled = features.table.append_column("given", images["label"])
    statuses, contradictions = without_contradictions(labelled, drop, features.thumbnails)
    scored = np.isin(statuses, SCORED)
    calibration = bundle.calibration(views)
    vectors = mean_views(features.vectors[scored], len(views))
    # In float32 as in scoring, so that a score equal to a threshold is decided in the same way.
    logits = head_logits(bundle.head_weights, vectors) / calibration.temperature
    logits = masked(logits, None if mask is None else mask[scored])
    probabilities = softmax(logits).astype(np.float32)
    decisions, target = None, None
    if calibration.thresholds is not None:
        best = probabilities.argmax(axis=1)
        decisions = decide(probabilities.max(axis=1), best, calibration.thresholds)
        target = calibration.thresholds.target
    rows = features.table.filter(pa.array(scored))
    seen, compared = None, 0.0
    if known is not None:
        pictures = None
        if known.is_affordable(rows.num_rows):
            pictures, compared = features.thumbnails[scored], known.share
        seen = known.find(rows["sha256"].to_pylist(), pictures)
    predictions = LabelledPredictions(
        labels=bundle.labels,
        uris=_objects(images["uri"])[scored],
        given=_objects(images["label"])[scored],
        probabilities=probabilities,
        listed=len(bundle.labels),
        decisions=decisions,
        outliers=OutlierModel.from_arrays(bundle.outliers).score(vectors, len(views)),
        seen=seen,
        **_cameras(_with_places(images, bundle).filter(pa.array(scored)), known),
    )
    data = _count(statuses) | {"opened": images.num_rows - features.found}
    return Sample(predictions, target, bundle.model_id, views, root, data, compared, contradictions)


def from_predictions(
    storage: Storage,
    bundle: Bundle | None,
    place: str,
    labels: str,
    known: KnownImages | None = None,
    drop: str = "none",
    notes: Counter[str] | None = None,
    options: LabelOptions = DEFAULTS,
) -> Sample:
    """Finished predictions for the images of a table with the columns uri and label, or of a format
    of labels.

    Joined on the URI, which is resolved as in a manifest. If boxes were scored, the most confident
    scored one stands for its image. Without the `bundle` that made the predictions, the labels it
    knows are those in the rows. `known`: the bundle's training images; only identical files are
    recognised. `drop`: as in --drop-contradictions. `notes` counts those of `list_labelled`, and
    OTHER_FORM. Raises InputError for predictions of another bundle, no image in common, or labels
    that may be unknown to the model or merely never predicted.
    """
    read = open_predictions(place, storage)
    run, was = read.run, read.run.identity
    check_version(run)
    if bundle is not None and bundle.model_id != was["model_id"]:
        raise InputError(
            f"the predictions in {run.place} were made by the model {was['model_id'][:12]}, and "
            f"--model is {bundle.model_id[:12]}: give the one that made them, or leave it out"
        )
    notes = Counter() if notes is None else notes

    def all_uris() -> pa.Array:
        tables = [each.select(["uri"]) for each in read.tables(["uri"])]
        return pa.concat_tables(tables)["uri"].combine_chunks()

    table = list_labelled(labels, storage, notes, options, all_uris)
    table = _with_places(table, bundle)
    found: set[str] = set()
    matched = pa.concat_tables([_SCHEMA.empty_table(), *_matched(read, table, found, notes)])
    if not matched.num_rows:
        raise InputError(
            f"none of the images in --labels {labels} is in {run.place}: the labels have URIs like "
            f"{table['uri'][0].as_py()}, the predictions like {run.plan.read(0)['uri'][0].as_py()}"
        )
    with_label = matched.num_rows
    if was.get("detections"):
        matched = matched.filter(pa.array(best_box_per_image(matched)))
    if bundle is None:
        _check_labels(read.uri, matched, found)
    all_labels = sorted(found) if bundle is None else bundle.labels
    statuses, contradictions = without_contradictions(matched, drop)
    rows = matched.filter(pa.array(np.isin(statuses, SCORED)))
    predictions = LabelledPredictions(
        labels=all_labels,
        uris=_objects(rows["uri"]),
        given=_objects(rows["given"]),
        probabilities=listed_scores(rows["top_k"], all_labels, np.float32),
        listed=was["top_k"],
        decisions=None if rows["decision"].null_count else _objects(rows["decision"]),
        outliers=rows["ood_score"].to_numpy(),
        seen=None if known is None else known.find(rows["sha256"].to_pylist(), None),
        **_cameras(rows, known),
    )
    views, target = tuple(was["views"]), None
    if bundle is not None and was["threshold"] is None:
        thresholds = bundle.calibration(views).thresholds
        target = None if thresholds is None else thresholds.target
    data = _count(statuses) | {
        "rows_without_label": run.rows - with_label,
        "labels_without_row": table.num_rows - matched.num_rows,
    }
    return Sample(
        predictions, target, was["model_id"], views, str(was["images"]), data,
        contradictions=contradictions,
    )  # fmt: skip


def best_box_per_image(rows: pa.Table) -> Flags:
    """Which rows stand for their images, bool (n,): the scored one with the most confident box, or
    else the first.

    A label is of an image, and as in training it most likely means that animal. `rows`: with the
    columns uri, status and detection_conf. Ties go to the first.
    """
    scored = pc.is_in(rows["status"], pa.array(SCORED)).to_numpy()
    confidence = np.where(scored, pc.fill_null(rows["detection_conf"], 0).to_numpy(), -1)
    order = np.argsort(-confidence, kind="stable")
    best = np.zeros(len(order), bool)
    best[order[first_of_each(string_keys(rows["uri"].take(pa.array(order))))]] = True
    return best


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - SOME} more" if len(names) > SOME else ""
    return ", ".join(names[:SOME]) + rest


def _with_places(table: pa.Table, bundle: Bundle | None) -> pa.Table:
    """Labelled images with their `location` as the training of the bundle named it, and their
    `sequence`."""
    trained = None if bundle is None else bundle.model.get("data", {}).get("locations")
    level = "location" if trained is None else trained["level"]
    names = {"location": locations_of(table, level), "sequence": sequences_of(table)}
    for name, values in names.items():
        column = pa.array(values, pa.string())
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _cameras(rows: pa.Table, known: KnownImages | None) -> dict[str, Any]:
    """Of LabelledPredictions: what the columns of `_with_places` say."""
    locations, sequences = _objects(rows["location"]), rows["sequence"].to_pylist()
    at_seen = None if known is None else known.at(locations.tolist())
    return {
        "sequences": group_images([str(row) for row in range(len(sequences))], None, sequences),
        "locations": locations if at_seen is not None else None,
        "at_seen": at_seen,
    }


def _matched(
    read: Predictions, table: pa.Table, found: set[str], notes: Counter[str]
) -> Iterator[pa.Table]:
    """The rows of predictions that have a label, with it as `given`, table by table.

    Adds to `found` the labels of all rows.
    """
    table = table.combine_chunks()
    uris = table["uri"].combine_chunks()
    joined = {"given": "label", "location": "location", "sequence": "sequence"}
    boxes = bool(read.box_columns)
    names = [name for name in _SCHEMA.names if name not in joined]
    for rows in read.tables(names if boxes else names[:-1]):
        found |= listed_labels(rows["top_k"])
        where, in_other_form = index_in_either_form(rows["uri"], uris)
        notes[OTHER_FORM] += in_other_form
        if not boxes:
            rows = rows.append_column("detection_conf", pa.nulls(rows.num_rows, pa.float32()))
        for name, its in joined.items():
            rows = rows.append_column(name, table[its].take(where))
        yield rows.filter(pc.is_valid(where)).cast(_SCHEMA)


def _check_labels(uri: str, matched: pa.Table, found: set[str]) -> None:
    """Raise InputError for labels in no row: unknown to the model, or merely never predicted."""
    unsure = Counter(label for label in matched["given"].to_pylist() if label not in found)
    if unsure:
        raise InputError(
            f"{counted(unsure.total(), 'image')} with labels that are in no row of {uri} "
            f"({some(sorted(unsure))}): give --model, the model that made the predictions, to tell "
            "unknown labels from those never predicted"
        )


def without_contradictions(
    rows: pa.Table, drop: str, thumbnails: Bytes | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """The status of each row, CONTRADICTORY for those to leave out, and the contradictions of the
    scored ones. `rows`: with the columns uri, given, status and sha256; `thumbnails`: to compare
    pictures, uint8 (n, 32, 32)."""
    statuses = _objects(rows["status"])
    scored = np.isin(statuses, SCORED)
    rows = rows.filter(pa.array(scored))
    contents, pictures = rows["sha256"].to_pylist(), None
    if thumbnails is not None and rows.num_rows <= MOST_COMPARED:
        pictures = thumbnails[scored]
    found = find_contradictions(
        rows["uri"].to_pylist(), rows["given"].to_pylist(), contents,
        group_images(contents, pictures),
    )  # fmt: skip
    statuses[np.flatnonzero(scored)[found.dropped(drop)]] = CONTRADICTORY
    return statuses.tolist(), found.found


def _count(statuses: list[str]) -> dict[str, Any]:
    """Labelled images, those scored, and the others by status."""
    counts = Counter(statuses)
    failures = {status: n for status, n in counts.most_common() if status not in SCORED}
    scored = counts.total() - sum(failures.values())
    return {"labelled": counts.total(), "scored": scored, "failures": failures}


def _objects(column: pa.ChunkedArray) -> Array:
    return np.array(column.to_pylist(), dtype=object)
