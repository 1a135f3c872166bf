"""A data set as COCO Camera Traps: trained on, scored and evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import monkeyray
from monkeyray.scoring.evaluation.evaluate import evaluate
from monkeyray.scoring.options import EvaluateConfig
from tests.support.labelled import labels_of, read

pytestmark = pytest.mark.system

QUIET = monkeyray.StoreConfig(quiet=True)


def write(few: Path, place: Path) -> None:
    """The labels of three species at four locations, in sequences of two, as a Windows machine
    wrote them; one image has two labels, each with a box, and two are not there."""
    images, annotations = [], []
    names = [f"{path.parent.name}\\{path.name}" for path in sorted(few.glob("*/*"))]
    for number, name in enumerate([*names, "n0\\gone.jpg", "n5\\gone.jpg"]):
        images.append(
            {"id": f"i{number}", "file_name": f"D:\\season\\{name}", "location": number // 2 % 4,
             "seq_id": f"s{number // 2}", "datetime": "2022-12-31 09:52:50"}
        )  # fmt: skip
        label = ("n0", "n5", "n9").index(name[:2])
        box = [0.1, 0.1, 0.5, 0.8] if number % 7 else [0, 0, 0.4, 0.4]
        annotations.append(
            {"id": f"a{number}", "image_id": f"i{number}", "category_id": label}
            | ({"bbox_relative": box} if number % 14 != 13 else {})
        )
    other = {"id": "b", "image_id": "i0", "category_id": 2, "bbox_relative": [0.5, 0.5, 0.4, 0.4]}
    annotations.append(other)
    categories = [
        {"id": i, "name": name} for i, name in enumerate(("howler", "capuchin", "langur"))
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    place.write_text(json.dumps(content))


def test_train_score_and_evaluate(few: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    write(few, labels)
    root = str(few)
    known = read(labels, images_root=root)
    assert len(known) == 3 * 14 - 1
    assert len(set(known["location"].to_pylist())) == 4
    model = str(tmp_path / "model")
    trained = monkeyray.train(images=str(labels), model=model, images_root=root, store=QUIET)
    names = [row["label"] for row in trained.model["labels"]]
    assert names == ["capuchin", "howler", "langur"]
    assert trained.model["data"]["used"] == 41
    counts = trained.model["data"]["skipped_files"]
    gone = "n0/gone.jpg, D:/season/n5/gone.jpg"
    assert counts == {
        "labels: images with several species, left out": 1,
        f"labels: images found in {few}/, which stands for D:/season/": 41,
        f"labels: images that are not in {few}, left out (D:/season/{gone})": 2,
    }
    report = (tmp_path / "model" / "report.html").read_text()
    assert "images with several species, left out" in report
    predictions = str(tmp_path / "predictions")
    monkeyray.score(images=str(few), model=trained.uri, predictions=predictions, store=QUIET)
    found = evaluate(
        EvaluateConfig(
            predictions=predictions, labels=str(labels), output=str(tmp_path / "a"), store=QUIET
        )
    ).content
    assert (found["data"]["labelled"], found["data"]["rows_without_label"]) == (41, 1)
    assert found["metrics"]["accuracy"] > 0.9
    again = evaluate(
        EvaluateConfig(
            images=str(labels), images_root=root, model=trained.uri, output=str(tmp_path / "b"),
            store=QUIET,
        )
    ).content  # fmt: skip
    assert again["metrics"]["confusion"] == found["metrics"]["confusion"]
    assert set(labels_of(known).values()) == set(names)


def test_train_on_the_boxes_of_labels(few: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    write(few, labels)
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(f"uri,label\n{few}/n9/none.jpg,howler\n")
    trained = monkeyray.train(
        images=str(labels), images_root=str(few), model=str(tmp_path / "model"), crops=True,
        corrections=(str(corrections),), store=QUIET,
    )  # fmt: skip
    data = trained.model["data"]
    assert data["skipped_files"]["labels: images without a box, left out"] == 3
    # 42 photographs, of which 3 have no box and one has two.
    assert (data["used"], data["opened"]) == (40, 40)
    assert data["skipped_files"]["corrected without a single box"] == 1
    assert data["boxes"] == {"padding": 0.1}
    assert data["contradictions"] == 0
    assert trained.model["metrics"]["estimate"]["accuracy"] > 0.8
