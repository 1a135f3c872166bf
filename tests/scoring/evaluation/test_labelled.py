"""Predictions and a table of labels are joined, and what is in one alone is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import InputError
from monkeyray.model.known_images import remember
from monkeyray.runs.lease import hold
from monkeyray.runs.place import create_run
from monkeyray.scoring.evaluation.labelled import (
    best_box_per_image,
    from_predictions,
    without_contradictions,
)
from monkeyray.scoring.schema import SCHEMA_VERSION, prediction_schema
from monkeyray.statistics.fingerprints import SIDE
from monkeyray.storage.keys import OTHER_FORM
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.pictures import jpeg, noise, seen
from tests.support.predicted import predict, scored

STORAGE = Storage()
IDENTITY = {
    "schema_version": SCHEMA_VERSION, "model_id": "0" * 64, "views": ["middle"],
    "threshold": None, "top_k": 2, "images": "/photos",
}  # fmt: skip

#: URI, status, and the two best of the labels a, b and c; two files.
ROWS: list[list[tuple[str, dict[str, float] | None]]] = [
    [("/photos/1.jpg", {"a": 0.75, "b": 0.25}), ("/photos/2.jpg", {"b": 0.5, "c": 0.25})],
    [("/photos/3.jpg", None), ("/photos/ä #4.jpg", {"c": 0.5, "a": 0.5})],
    [("/photos/5.jpg", {"a": 1.0, "c": 0.0})],
]

Predictions = Callable[..., Path]


@pytest.fixture
def predictions(tmp_path: Path) -> Predictions:
    def write(**changed: Any) -> Path:
        place = tmp_path / "predictions"
        plans = [pa.table({"uri": [uri for uri, _ in rows]}) for rows in ROWS]
        with hold(Location.of(str(place)), STORAGE, print) as lease:
            run = create_run(
                lease.place, lease, IDENTITY | changed, plans, [len(rows) for rows in ROWS]
            )
            schema = prediction_schema(plans[0].schema)
            threshold = run.identity["threshold"]
            for shard, rows in enumerate(ROWS):
                run.publish(shard, plans[shard], table_of(rows, schema, threshold))
            run.finish(lease)
        return place

    return write


def table_of(rows: list[Any], schema: pa.Schema, threshold: float | None) -> pa.Table:
    filled = []
    for uri, scores in rows:
        row = dict.fromkeys(schema.names) | {"uri": uri, "status": "ok" if scores else "empty"}
        if scores:
            best = [{"label": label, "score": score} for label, score in scores.items()]
            row |= {"label": best[0]["label"], "score": best[0]["score"], "top_k": best}
            if threshold is not None:
                accepted = best[0]["score"] >= threshold
                row["decision"] = "accepted" if accepted else "below_threshold"
            row |= {"ood_score": 0.5, "predicted_at": datetime.now(UTC), "sha256": "0" * 64}
        filled.append(row)
    return pa.Table.from_pylist(filled, schema)


def test_they_are_joined_on_the_uri(predictions: Predictions, tmp_path: Path) -> None:
    place = predictions()
    (tmp_path / "labels.csv").write_text(
        "label,uri\nb,/photos/2.jpg\na,/photos/./1.jpg\na,/photos/3.jpg\n"
        "c,file:///photos/%C3%A4%20%234.jpg\nb,/photos/6.jpg\nb,/photos/7.jpg\n"
    )
    found = from_predictions(STORAGE, None, str(place), str(tmp_path / "labels.csv"))
    assert found.data == {
        "labelled": 4,
        "scored": 3,
        "failures": {"empty": 1},
        "rows_without_label": 1,
        "labels_without_row": 2,
    }
    predicted = found.predictions
    assert predicted.labels == ["a", "b", "c"]
    assert predicted.uris.tolist() == ["/photos/1.jpg", "/photos/2.jpg", "/photos/ä #4.jpg"]
    assert predicted.given.tolist() == ["a", "b", "c"]
    assert predicted.probabilities.tolist() == [[0.75, 0.25, 0], [0, 0.5, 0.25], [0.5, 0, 0.5]]
    assert predicted.decisions is None
    assert predicted.outliers.tolist() == [0.5] * 3
    assert (found.root, found.views, predicted.listed) == ("/photos", ("middle",), 2)


def test_locations_and_sequences_are_joined_too(predictions: Predictions, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(
        "uri,label,location,deployment,sequence\n/photos/2.jpg,b,north,1,7\n/photos/1.jpg,a,,1,7\n"
        "/photos/5.jpg,a,north,1,7\n"
    )
    known = remember([], np.zeros((0, 32, 32), np.uint8), ["north"])
    labels, place = str(tmp_path / "labels.csv"), str(predictions())
    found = from_predictions(STORAGE, None, place, labels, known).predictions
    assert found.locations is not None
    assert found.at_seen is not None
    assert found.sequences is not None
    assert found.locations.tolist() == [None, "north", "north"]
    assert found.at_seen.tolist() == [False, True, True]
    assert found.sequences.tolist() == [0, 1, 1]
    alone = from_predictions(STORAGE, None, place, labels).predictions
    assert alone.locations is alone.at_seen is None


def test_uris_are_joined_in_either_unicode_form(predictions: Predictions, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("uri,label\n/photos/a\u0308 #4.jpg,c\n/photos/1.jpg,a\n")
    notes: Counter[str] = Counter()
    labels = str(tmp_path / "labels.csv")
    found = from_predictions(STORAGE, None, str(predictions()), labels, notes=notes)
    assert found.predictions.uris.tolist() == ["/photos/1.jpg", "/photos/\u00e4 #4.jpg"]
    assert +notes == {OTHER_FORM: 1}


def test_decisions_are_taken_as_they_are(predictions: Predictions, tmp_path: Path) -> None:
    place = predictions(threshold=0.75)
    (tmp_path / "labels.csv").write_text("uri,label\n/photos/1.jpg,a\n/photos/2.jpg,b\n")
    found = from_predictions(STORAGE, None, str(place), str(tmp_path / "labels.csv"))
    assert found.predictions.decisions is not None
    assert found.predictions.decisions.tolist() == ["accepted", "below_threshold"]
    assert found.target is None


def test_relative_uris_are_relative_to_the_table(predictions: Predictions, tmp_path: Path) -> None:
    place = predictions()
    (tmp_path / "labels.csv").write_text("uri,label\n../../../../../../photos/1.jpg,a\n")
    found = from_predictions(STORAGE, None, str(place), str(tmp_path / "labels.csv"))
    assert found.predictions.uris.tolist() == ["/photos/1.jpg"]


@pytest.mark.parametrize(
    ("changed", "labels", "words"),
    [
        (
            {},
            "/photos/1.jpg,x\n",
            r"1 image with labels that are in no row .* \(x\): give --model",
        ),
        (
            {},
            "/photos/9.jpg,a\n",
            r"none of the images in --labels .* like /photos/9.jpg, .* like /photos/1.j",
        ),
        ({"schema_version": 1}, "/photos/1.jpg,a\n", "another version of MonkeyRay"),
        ({}, "/photos/1.jpg,a\n/photos/1.jpg,b\n", "two labels"),
    ],
)
def test_unjoinable_labels(
    changed: dict[str, Any],
    labels: str,
    words: str,
    predictions: Predictions,
    tmp_path: Path,
) -> None:
    (tmp_path / "labels.csv").write_text(f"uri,label\n{labels}")
    with pytest.raises(InputError, match=words):
        from_predictions(STORAGE, None, str(predictions(**changed)), str(tmp_path / "labels.csv"))


def test_labels_are_a_table(predictions: Predictions, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a table: give a \.csv"):
        from_predictions(STORAGE, None, str(predictions()), str(tmp_path))


#: Files that were not scored have no contradictory labels, even the same bytes.
LABELLED = [
    ("1.jpg", "a", "ok", "x"), ("2.jpg", "b", "truncated", "x"), ("3.jpg", "a", "ok", "y"),
    ("4.jpg", "b", "ok", "z"), ("5.jpg", "a", "empty", "e"), ("6.jpg", "b", "empty", "e"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("drop", "with_pictures", "left_out"),
    [
        ("none", True, set()),
        ("identical", True, {"1.jpg", "2.jpg"}),
        ("all", True, {"1.jpg", "2.jpg", "3.jpg", "4.jpg"}),
        ("all", False, {"1.jpg", "2.jpg"}),
    ],
)
def test_contradictory_labels(drop: str, with_pictures: bool, left_out: set[str]) -> None:
    columns = zip(*LABELLED, strict=True)
    rows = pa.table([*map(pa.array, columns)], names=["uri", "given", "status", "sha256"])
    thumbnails = None
    if with_pictures:
        # 3.jpg and 4.jpg are the same picture.
        files = [jpeg(noise(1)), jpeg(noise(1)), jpeg(noise(2)), jpeg(noise(2), 60)]
        thumbnails = np.concatenate([seen(*files), np.zeros((2, SIDE, SIDE), np.uint8)])
    statuses, found = without_contradictions(rows, drop, thumbnails)
    assert [row["how"] for row in found] == ["identical", "near"][: 1 + with_pictures]
    assert [(image["uri"], image["label"]) for image in found[0]["images"]] == [
        ("1.jpg", "a"), ("2.jpg", "b")
    ]  # fmt: skip
    expected = ["contradictory" if name in left_out else status for name, _, status, _ in LABELLED]
    assert statuses == expected


def test_contradictory_predictions_are_left_out(tmp_path: Path) -> None:
    rows = [
        scored(f"/photos/{name}", ("a", 0.75), ("b", 0.25), sha256=sha256, ood_score=0.5)
        for name, _, _, sha256 in LABELLED[:4]
    ]
    identity: dict[str, Any] = IDENTITY
    predict(tmp_path / "out", rows, **identity)
    lines = [f"/photos/{name},{label}" for name, label, *_ in LABELLED[:4]]
    (tmp_path / "labels.csv").write_text("\n".join(["uri,label", *lines]))
    found = from_predictions(
        STORAGE, None, str(tmp_path / "out"), str(tmp_path / "labels.csv"), drop="all"
    )
    assert found.predictions.uris.tolist() == ["/photos/3.jpg", "/photos/4.jpg"]
    assert found.data["failures"] == {"contradictory": 2}
    assert len(found.contradictions) == 1


boxes = st.lists(
    st.tuples(st.sampled_from(["ok", "truncated", "person", "unreadable"]), st.integers(0, 4)),
    min_size=1, max_size=4,
)  # fmt: skip


@given(st.lists(boxes, max_size=6), st.randoms(use_true_random=False))
def test_the_most_confident_scored_box_stands_for_its_image(
    images: list[list[tuple[str, int]]], random: Any
) -> None:
    rows = [(image, *each) for image, its in enumerate(images) for each in its]
    random.shuffle(rows)
    table = pa.table(
        {
            "uri": pa.array([f"{image}.jpg" for image, _, _ in rows], pa.string()),
            "status": pa.array([status for _, status, _ in rows], pa.string()),
            "detection_conf": pa.array([conf / 4 for *_, conf in rows], pa.float32()),
        }
    )

    def rank(number: int) -> tuple[bool, int, int]:
        _, status, conf = rows[number]
        scored = status in ("ok", "truncated")
        return not scored, -conf if scored else 0, number

    expected = {
        min((i for i, row in enumerate(rows) if row[0] == image), key=rank)
        for image in range(len(images))
    }
    assert set(np.flatnonzero(best_box_per_image(table)).tolist()) == expected
