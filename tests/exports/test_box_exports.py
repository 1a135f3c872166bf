"""Predictions of boxes: exports and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monkeyray.exports.export import export
from monkeyray.exports.options import ExportConfig
from monkeyray.options import StoreConfig
from monkeyray.scoring.evaluation.labelled import from_predictions
from monkeyray.scoring.schema import SCHEMA_VERSION
from monkeyray.storage.store import Storage
from tests.support.camtrap import TIME, make_package, problems, read_csv
from tests.support.megadetector import check_format
from tests.support.predicted import box, predict, scored

QUIET = StoreConfig(quiet=True)


def animal(uri: str, label: str, number: int, conf: float, *bbox: float) -> dict[str, Any]:
    return scored(uri, (label, 0.75), ("deer", 0.25), captured_at=TIME) | box(
        number, "animal", conf, *bbox
    )


def other(uri: str, status: str, *its: Any, **rest: Any) -> dict[str, Any]:
    return {"uri": uri, "status": status, "captured_at": TIME, **rest} | box(*its)


HERD, LONE = "/x/A/1/herd.jpg", "/x/A/1/lone.jpg"
ROWS = [
    animal(HERD, "fox", 0, 0.9, 0.1, 0.2, 0.3, 0.4),
    other(HERD, "person", 1, "person", 0.5, 0.5, 0, 0.5, 1.001),
    animal(HERD, "empty", 3, 0.3, 0, 0, 1, 0),
    other("/x/A/1/blank.jpg", "blank", None, "blank"),
    other("/x/A/1/blank.jpg", "eliminated", 1, "animal", -0.81, 0.1, 0.2, 0.3, 0.4),
    other("/x/B/1/car.jpg", "vehicle", 0, "vehicle", 0.75, 0.1, 0.1, 0.2, 0.2),
    other("/x/B/1/new.jpg", "undetected", None, None, error="not listed in the detections"),
    other("/x/B/1/bad.jpg", "unreadable", 0, "animal", 0.75, 0.1, 0.1, 0.2, 0.2, error="broken"),
    other("/x/B/1/bad.jpg", "unreadable", 1, "animal", 0.75, 0.1, 0.1, 0.2, 0.2, error="broken"),
    other(LONE, "crashed", 0, "animal", 0.75, 0.1, 0.1, 0.2, 0.2, error="by SIGSEGV"),
    animal(LONE, "fox", 1, 0.5, 0.2, 0.2, 0.2, 0.2),
]
#: The boxes of one image are in two files.
SIZES = [2, 9]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    identity: dict[str, Any]
    identity = {"schema_version": SCHEMA_VERSION, "model_id": "a", "views": ["whole"], "top_k": 2}
    predict(tmp_path / "predictions", ROWS, images="/x", sizes=SIZES, **identity)
    return tmp_path


def run(place: Path, **options: Any) -> Any:
    return export(ExportConfig(predictions=str(place / "predictions"), store=QUIET, **options))


def test_a_megadetector_export_returns_the_boxes(place: Path) -> None:
    import json

    done = run(place, format="megadetector", output=str(place / "out.json"))
    results = json.loads((place / "out.json").read_text())
    check_format(results)
    herd, blank, car, new, bad, lone = results["images"]
    first, person, second = herd["detections"]
    assert first == {
        "category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4],
        "classifications": [["2", 0.75], ["0", 0.25]],
    }  # fmt: skip
    assert person == {"category": "2", "conf": 0.5, "bbox": [0.5, 0, 0.5, 1]}
    # The detector's animal stays an animal, even if its label is blank.
    assert (second["category"], second["classifications"][0]) == ("1", ["1", 0.75])
    eliminated = {"category": "1", "conf": -0.81, "bbox": [0.1, 0.2, 0.3, 0.4]}
    assert blank == {"file": "A/1/blank.jpg", "detections": [eliminated]}
    assert [box["category"] for box in car["detections"]] == ["3"]
    assert new["failure"] == "undetected: not listed in the detections"
    assert bad["failure"] == "unreadable: broken"
    assert ["classifications" in found for found in lone["detections"]] == [False, True]
    assert done.kinds == {"animal": 3, "human": 1, "blank": 2, "vehicle": 1, "failure": 2,
                          "eliminated": 1}  # fmt: skip
    assert "10 boxes, and images without one, exported" in str(done)


def test_camtrap_dp_has_an_observation_a_box(place: Path) -> None:
    done = make_package(place, [])
    assert problems(place / "package") == []
    media, seen = (
        read_csv(place / "package" / f"{name}.csv") for name in ("media", "observations")
    )
    assert [row["fileName"] for row in media] == [
        "herd.jpg", "blank.jpg", "car.jpg", "new.jpg", "bad.jpg", "lone.jpg",
    ]  # fmt: skip
    assert [row["mediaComments"] for row in media][:3] == ["", "", ""]
    assert [row["observationType"] for row in seen] == [
        "animal", "human", "blank", "blank", "vehicle", "unclassified", "unclassified",
        "unclassified", "animal",
    ]  # fmt: skip
    assert len({row["observationID"] for row in seen}) == len(seen)
    assert {row["mediaID"] for row in seen} == {row["mediaID"] for row in media}
    sides = [float(seen[0][f"bbox{side}"]) for side in ("X", "Y", "Width", "Height")]
    assert sides == [0.1, 0.2, 0.3, 0.4]
    assert (seen[1]["classificationProbability"], seen[1]["bboxHeight"]) == ("0.5", "1")
    assert (seen[3]["bboxX"], seen[3]["classificationMethod"]) == ("", "machine")
    assert done.kinds["unclassified"] == 3


def test_the_csv_has_columns_for_boxes(place: Path) -> None:
    run(place, format="csv", output=str(place / "out.csv"))
    rows = read_csv(place / "out.csv")
    kinds = [row["observation_type"] for row in rows]
    assert kinds == ["animal", "human", "blank", "blank", "", "vehicle", "", "", "", "", "animal"]
    columns = [name for name in rows[0] if name.startswith("detection")]
    assert [rows[1][name] for name in columns] == ["1", "person", "0.5", "0.5", "0", "0.5", "1"]
    assert [rows[3][name] for name in columns] == ["", "blank", "", "", "", "", ""]


def test_best_box_of_an_image_is_measured(place: Path) -> None:
    (place / "labels.csv").write_text(
        f"uri,label\n{HERD},deer\n{LONE},fox\n/x/A/1/blank.jpg,empty\n/x/B/1/bad.jpg,fox\n"
        "/x/none.jpg,fox\n"
    )
    found = from_predictions(Storage(), None, str(place / "predictions"), str(place / "labels.csv"))
    assert found.predictions.uris.tolist() == [HERD, LONE]
    # Box 0 of the herd, though box 3 was scored too; the scored box of the lone animal.
    assert (
        found.predictions.probabilities[:, found.predictions.labels.index("fox")].tolist()
        == [0.75] * 2
    )
    assert found.data["failures"] == {"blank": 1, "unreadable": 1}
    assert found.data["labels_without_row"] == 1
    assert found.data["rows_without_label"] == 2
