"""Detections: what is read, and what is refused with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monkeyray.errors import InputError
from monkeyray.images.detections import Detections, parse_detections, read_detections
from monkeyray.storage.store import Storage
from tests.support.megadetector import CATEGORIES, detection, results


def parse(content: Any) -> Detections:
    return parse_detections("/x/results.json", json.dumps(content).encode())


def test_batch_results_are_read() -> None:
    found = parse(
        results(
            [
                {"file": "A\\1.jpg", "detections": [detection(), detection("2", 0.25)]},
                {"file": "./A/2.jpg", "detections": [], "failure": None},
                {"file": "A/3.jpg", "failure": "Failure image access", "detections": None},
                {"file": "A/4.jpg", "failure": "Failure image access"},
                {
                    "file": "A/5.jpg",
                    "detections": [
                        {**detection("7"), "classifications": [["0", 0.9]]},
                        detection("3", 1, (0, 0, 1, 1.004)),
                        detection(conf=-0.81),
                    ],
                },
            ],
            detection_categories={**CATEGORIES, "1": "Animal", "7": "tripod"},
        )
    )
    assert found.files == ["A/1.jpg", "A/2.jpg", "A/3.jpg", "A/4.jpg", "A/5.jpg"]
    assert found.starts.tolist() == [0, 2, 2, 2, 2, 5]
    assert found.kinds.tolist() == [0, 1, -1, 2, 0]
    assert found.failed.tolist() == [False, False, True, True, False]
    np.testing.assert_allclose(found.confs, [0.9, 0.25, 0.9, 1, -0.81])
    np.testing.assert_allclose(found.boxes[[0, 3]], [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1.004]])
    assert found.threshold == 0.2


def test_the_file_may_set_its_own_threshold() -> None:
    content = results([{"file": "1.jpg", "detections": []}])
    content["info"]["detector_metadata"] = {"typical_detection_threshold": 0.8}
    assert parse(content).threshold == 0.8
    content["info"]["detector_metadata"] = {"typical_detection_threshold": "high"}
    assert parse(content).threshold == 0.2


def test_predictions_of_speciesnet_and_names_of_pytorch_wildlife_are_read() -> None:
    found = parse(
        {
            "predictions": [
                {"filepath": "/c/1.jpg", "detections": [{**detection("2"), "label": "human"}]},
                {"filepath": "/c/2.jpg", "failures": ["DETECTOR"], "prediction": "unknown"},
            ]
        }
    )
    assert (found.files, found.kinds.tolist()) == (["/c/1.jpg", "/c/2.jpg"], [1])
    assert found.failed.tolist() == [False, True]
    wildlife = {"0": "animal", "1": "person", "2": "vehicle"}
    images = [{"file": "1.jpg", "detections": [detection("0")]}]
    assert parse(results(images, detection_categories=wildlife)).kinds.tolist() == [0]


def test_equal_repeated_entries_count_once() -> None:
    one, other = ({"file": "1.jpg", "detections": [detection(conf=c)]} for c in (0.9, 0.8))
    middle = {"file": "2.jpg", "detections": [detection("2"), detection("3")]}
    found = parse(results([one, middle, one, {"file": "3.jpg", "detections": [detection("3")]}]))
    assert found.files == ["1.jpg", "2.jpg", "3.jpg"]
    assert found.repeated == 1
    assert found.starts.tolist() == [0, 1, 3, 4]
    assert found.kinds.tolist() == [0, 1, 2, 2]
    with pytest.raises(InputError, match=r"1\.jpg twice"):
        parse(results([one, middle, other]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"file": "1.jpg", "detections": []}], "is a list.*pixels.*batch results"),
        ({"annotations": [{"img_id": "1.jpg", "bbox": [[1, 2, 3, 4]]}]}, "boxes in pixels"),
        (
            {
                "images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}],
                "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 1}],
            },
            "COCO's format",
        ),
        ({"a": 1}, "another format .it has a"),
        (3, "another format .it has int"),
        (results([]), "no images"),
        (results([{"file": "1.jpg", "detections": []}], detection_categories=None), "categories"),
        (
            results([{"file": "1.jpg", "detections": []}], detection_categories={"1": "deer"}),
            "no category animal, only deer",
        ),
        (results([{"file": "1.jpg", "detections": [detection("8")]}]), "category '8'"),
        (
            results([{"file": "1.jpg", "detections": "none"}]),
            "1.jpg detections that are not a list",
        ),
        (results([{"file": "1.jpg", "detections": [{"conf": 1}]}]), "without a bbox"),
    ],
)
def test_other_files_are_refused_with_the_way_out(content: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(content)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"bbox": [10, 20, 300, 400]}, "in pixels"),
        ({"bbox": [0.5, 0.5, 0.6, 0.2]}, "not in the image"),
        ({"bbox": [0.5, -0.1, 0.2, 0.2]}, "not in the image"),
        ({"bbox": [0.5, 0.5, -0.2, 0.2]}, "not in the image"),
        ({"bbox": [0.5, 0.5, float("nan"), 0.2]}, "not four numbers"),
        ({"bbox": [0.5, 0.5, 0.2]}, "not four numbers"),
        ({"bbox": [0.5, 0.5, "a", True]}, "not four numbers"),
        ({"conf": float("nan")}, "conf is nan"),
        ({"conf": 80}, "conf is 80"),
        ({"conf": -1.1}, "conf is -1.1"),
        ({"conf": None}, "conf is None"),
    ],
)
def test_a_malformed_box_is_named_with_its_image(wrong: dict[str, Any], words: str) -> None:
    images = [
        {"file": "a/0.jpg", "detections": [detection()]},
        {"file": "a/1.jpg", "detections": [{**detection(), **wrong}]},
    ]
    with pytest.raises(InputError, match=f"a/1.jpg.*{words}"):
        parse(results(images))


def test_missing_files_and_other_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_detections(str(tmp_path / "none.json"), Storage())
    for data in (b"", b"\xff\xfe", b'{"images": [', b"[" * 100_000):
        with pytest.raises(InputError, match=r"not JSON|is a list"):
            parse_detections("/x.json", data)
    with pytest.raises(InputError, match="not JSON"):
        parse_detections("/x.json", b'{"a":' * 100_000)
