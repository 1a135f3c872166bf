"""Predictions against a table of labels: the rows that have a label, as a model's answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array
from monkeyray.errors import InputError
from monkeyray.labels.listing import list_labelled
from monkeyray.model.bundle import Bundle
from monkeyray.model.known_images import KnownImages
from monkeyray.runs.reader import Predictions, open_predictions
from monkeyray.scoring.best_boxes import best_box_per_image
from monkeyray.scoring.evaluation_summary import some
from monkeyray.scoring.measure import Found, LabelledPredictions, count_statuses
from monkeyray.scoring.rows import SCHEMA_VERSION, SCORED
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import is_table

_COLUMNS = ["uri", "status", "decision", "ood_score", "top_k", "sha256"]


def join_labels(
    storage: Storage,
    bundle: Bundle | None,
    place: str,
    labels: str,
    images: KnownImages | None = None,
) -> Found:
    """The answers in finished predictions for the images of a table with the columns uri and label.

    They are joined on the URI as a manifest's are understood; of an image's boxes the surest one
    that was scored stands for it. Without the `bundle` that made the predictions, the labels it
    knows are those that the rows have. `images`: those that the bundle was made with, of which the
    same bytes are known again. Raises InputError for predictions of another bundle, no
    image in common, or labels of which the rows do not tell whether the model knows them.
    """
    predictions = open_predictions(place, storage)
    run = predictions.run
    was = run.identity
    if was.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{run.uri} holds no predictions of this version of MonkeyRay: score the images again"
        )
    if bundle is not None and bundle.model_id != was["model_id"]:
        raise InputError(
            f"the predictions in {run.uri} were made by the model {was['model_id'][:12]}, and "
            f"--model is {bundle.model_id[:12]}: give the one that made them, or leave it out"
        )
    if not is_table(labels):
        raise InputError(
            f"--labels {labels} is no table: give a file that ends in .csv or .parquet, with the "
            "columns uri and label"
        )
    table = list_labelled(labels, storage, Counter())
    seen: set[str] = set()
    matched = pa.concat_tables([_NO_ROWS, *_matched(predictions, table, seen)])
    if not matched.num_rows:
        raise InputError(
            f"no image of --labels {labels} is in {run.uri}: its URIs are such as "
            f"{table['uri'][0].as_py()}, and those of the predictions such as "
            f"{run.plan.read(0)['uri'][0].as_py()}"
        )
    answered = matched.num_rows
    if was.get("detections"):
        matched = matched.filter(pa.array(best_box_per_image(matched)))
    known = sorted(seen) if bundle is None else bundle.labels
    if bundle is None:
        _check_known(predictions, matched, seen)
    rows = matched.filter(pc.is_in(matched["status"], pa.array(SCORED)))
    decisions = rows["decision"]
    answers = LabelledPredictions(
        labels=known,
        uris=np.array(rows["uri"].to_pylist(), dtype=object),
        given=np.array(rows["given"].to_pylist(), dtype=object),
        probabilities=_probabilities(rows["top_k"], known),
        listed=was["top_k"],
        decisions=None if decisions.null_count else np.array(decisions.to_pylist(), dtype=object),
        outliers=rows["ood_score"].to_numpy(),
        seen=None if images is None else images.find(rows["sha256"].to_pylist(), None),
    )
    views, target = tuple(was["views"]), None
    if bundle is not None and was["threshold"] is None:
        thresholds = bundle.calibration(views).thresholds
        target = None if thresholds is None else thresholds.target
    data = count_statuses(Counter(matched["status"].to_pylist())) | {
        "rows_without_label": run.rows - answered,
        "labels_without_row": table.num_rows - matched.num_rows,
    }
    return Found(answers, target, was["model_id"], views, str(was["images"]), data)


_NO_ROWS = pa.schema(
    [
        ("uri", pa.string()),
        ("status", pa.string()),
        ("decision", pa.string()),
        ("ood_score", pa.float32()),
        ("top_k", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))),
        ("sha256", pa.string()),
        ("detection_conf", pa.float32()),
        ("given", pa.string()),
    ]
).empty_table()


def _matched(predictions: Predictions, table: pa.Table, seen: set[str]) -> Iterator[pa.Table]:
    """The rows of predictions that have a label, with it as `given`, table by table.

    Adds to `seen` the labels that any row has.
    """
    uris, given = table["uri"].combine_chunks(), table["label"].combine_chunks()
    boxes = bool(predictions.box_columns)
    for rows in predictions.tables([*_COLUMNS, *(["detection_conf"] if boxes else [])]):
        for chunk in rows["top_k"].chunks:
            seen.update(pc.unique(chunk.flatten().field("label")).to_pylist())
        where = pc.index_in(rows["uri"], value_set=uris)
        if not boxes:
            rows = rows.append_column("detection_conf", pa.nulls(rows.num_rows, pa.float32()))
        with_given = rows.append_column("given", given.take(where.combine_chunks()))
        yield with_given.filter(pc.is_valid(where)).cast(_NO_ROWS.schema)


def _check_known(predictions: Predictions, matched: pa.Table, seen: set[str]) -> None:
    """Refuse what rows alone cannot tell: a label unknown to the model, or one it never found."""
    unsure = Counter(label for label in matched["given"].to_pylist() if label not in seen)
    if unsure:
        raise InputError(
            f"{unsure.total()} images have labels that no row of {predictions.uri} has "
            f"({some(sorted(unsure))}): give --model, the one that made the predictions, to tell "
            "whether it does not know them or never found them"
        )


def _probabilities(top_k: pa.ChunkedArray, labels: list[str]) -> Array:
    """What the rows list, float32 (n, labels), 0 for a label that a row does not list."""
    found = np.zeros((len(top_k), len(labels)), np.float32)
    lengths = pc.list_value_length(top_k).to_numpy()
    listed = pa.concat_arrays(top_k.chunks).flatten() if len(top_k) else None
    if listed is not None:
        rows = np.repeat(np.arange(len(top_k)), lengths)
        columns = pc.index_in(listed.field("label"), value_set=pa.array(labels))
        found[rows, columns.to_numpy()] = listed.field("score").to_numpy()
    return found
