"""COCO Camera Traps, with what its files in the field have in them."""

from __future__ import annotations

import json
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from monkeyray.errors import InputError
from tests.support.files import touch
from tests.support.labelled import labels_of, read, read_counted

CATEGORIES = [{"id": 0, "name": "empty"}, {"id": 4, "name": "gray_wolf"}, {"id": 7, "name": "elk"},
              {"id": 9, "name": "Person"}]  # fmt: skip


def image(name: str, **rest: Any) -> dict[str, Any]:
    return {"id": name, "file_name": name, **rest}


def seen(image: str, category: int, **rest: Any) -> dict[str, Any]:
    return {
        "id": f"{image}-{category}-{len(rest)}",
        "image_id": image,
        "category_id": category,
    } | rest


def write(path: Path, images: Any, annotations: Any, categories: Any = CATEGORIES) -> Path:
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_every_quirk(tmp_path: Path) -> None:
    images = [
        image("loc12\\IMG_0001.JPG", width=2000, height=1000, location=12, seq_id="e7",
              frame_num=-1, datetime="2022-12-31 09:52:50"),
        image("loc12\\IMG_0002.JPG", location=12, seq_id="e7",
              date_captured="1980-01-01 00:00:00"),
        image("loc12/IMG_0003.JPG", location="12", sequence_id=8, datetime="2022:12:31 09:52:52"),
        image("loc13/blank.JPG", datetime="yesterday"),
        image("loc13/person.JPG"),
        image("loc13/two.JPG"),
        image("loc13/empty_and_elk.JPG"),
        image("loc13/corrupt.JPG", corrupt=True),
        image("loc13/nobody_looked.JPG"),
        image("loc13/withheld.JPG"),
    ]  # fmt: skip
    annotations = [
        seen("loc12\\IMG_0001.JPG", 4, bbox=[10.5, 20.0, 200.0, 150.0]),
        seen("loc12\\IMG_0001.JPG", 4, bbox=[1000, 500, 2000, 900]),
        seen("loc12\\IMG_0002.JPG", 7, sequence_level_annotation=True),
        seen("loc12/IMG_0003.JPG", 7, bbox_relative=[0.1, 0.1, 0.5, 0.5]),
        # Its sequence's label is not needed.
        seen("loc12/IMG_0003.JPG", 4, sequence_level_annotation=True),
        seen("loc13/blank.JPG", 0),
        seen("loc13/person.JPG", 9, bbox=[1, 1, 5, 5]),
        seen("loc13/two.JPG", 4),
        seen("loc13/two.JPG", 7),
        seen("loc13/empty_and_elk.JPG", 0),
        seen("loc13/empty_and_elk.JPG", 7),
        seen("loc13/corrupt.JPG", 7),
        seen("loc13/withheld.JPG", 9),
        seen("unlisted", 4),
    ]
    place = write(tmp_path / "labels.json", images, annotations)
    touch(tmp_path, *(each["file_name"].replace("\\", "/") for each in images[:-1]))
    table, notes = read_counted(place)
    assert labels_of(table, tmp_path) == {
        "loc12/IMG_0001.JPG": "gray_wolf",
        "loc12/IMG_0002.JPG": "elk",
        "loc12/IMG_0003.JPG": "elk",
        "loc13/blank.JPG": "blank",
        "loc13/person.JPG": "human",
    }
    assert table["location"].to_pylist() == ["12", "12", "12", None, None]
    assert table["sequence"].to_pylist() == ["e7", "e7", "8", None, None]
    assert table["level"].to_pylist() == ["box", "sequence", "box", "image", "image"]
    moments = [datetime(2022, 12, 31, 9, 52, 50), None, datetime(2022, 12, 31, 9, 52, 52)]
    assert table["time"].to_pylist() == [*moments, None, None]
    assert set(table["by"].to_pylist()) == {"human"}
    assert None not in table["size_bytes"].to_pylist()
    assert notes == {
        "boxes outside of their images, read as labels of the image": 1,
        "boxes in pixels of images of unknown size, read as labels of the image": 1,
        "images without an annotation, left out": 1,
        "of images marked as corrupt, left out": 1,
        "of images that the file does not list, left out": 1,
        "of sequences whose images have their own, left out": 1,
        "of sequences that differ from their images' own": 1,
        "of sequences, kept for each image, although not every one shows the animal": 1,
        "images with several species, left out": 1,
        "images that are both blank and not, left out": 1,
        "manifest paths with backslashes, read as slashes": 3,
        f"images that are not in {tmp_path}, left out (loc13/withheld.JPG)": 1,
    }
    dropped, notes = read_counted(place, sequence_labels="drop")
    assert len(dropped) == 4
    assert notes["of sequences, left out"] == 1
    # As of another table with these columns.
    usual, _ = read_counted(place, uri_column="path", label_column="Species")
    assert usual.equals(table)
    with pytest.raises(InputError, match=r"two\.JPG the labels elk, gray_wolf .2 such images"):
        read(place, several_labels="refuse")
    with pytest.raises(InputError, match=r"label-level genus: .* has no genus"):
        read(place, label_level="genus")


def test_labels_that_may_be_of_sequences(tmp_path: Path) -> None:
    images = [image(f"{i}.jpg", seq_id=f"s{i // 2}") for i in range(40)]
    annotations = [seen(f"{i}.jpg", 4 + i // 2 % 2 * 3) for i in range(40)]
    touch(tmp_path, *(f"{i}.jpg" for i in range(40)))
    table, notes = read_counted(write(tmp_path / "labels.json", images, annotations))
    assert notes == {
        "sequences without differing labels, which may be of the sequence, not of each image": 20
    }
    assert set(table["level"].to_pylist()) == {None}
    annotations[0]["category_id"] = 7
    table, notes = read_counted(write(tmp_path / "labels.json", images, annotations))
    assert notes == {}
    assert set(table["level"].to_pylist()) == {"image"}


def test_boxes_become_crops(tmp_path: Path) -> None:
    size = {"width": 100, "height": 200}
    images = [image(name, **size) for name in ("two.jpg", "herd.jpg", "whole.jpg", "gone.jpg")]
    annotations = [
        seen("two.jpg", 4, bbox=[10, 20, 30, 40]),
        seen("two.jpg", 7, bbox=[50, 20, 30, 40]),
        seen("herd.jpg", 7, bbox=[0, 0, 10, 10]),
        seen("herd.jpg", 7, bbox=[50, 100, 50, 100]),
        seen("herd.jpg", 7, bbox=[0, 0, 20, 10]),
        seen("whole.jpg", 4),
        seen("gone.jpg", 4, bbox=[1, 1, 5, 5]),
    ]
    place = write(tmp_path / "labels.json", images, annotations)
    touch(tmp_path, "two.jpg", "herd.jpg", "whole.jpg")
    table, notes = read_counted(place, crops=True)
    assert table["uri"].to_pylist() == [f"{tmp_path}/{n}.jpg" for n in ("two", "two", "herd")]
    assert table["label"].to_pylist() == ["gray_wolf", "elk", "elk"]
    boxes = [[round(side, 4) for side in box] for box in table["detection_bbox"].to_pylist()]
    assert boxes == [[0.1, 0.1, 0.3, 0.2], [0.5, 0.1, 0.3, 0.2], [0.5, 0.5, 0.5, 0.5]]
    assert len(set(table["detection"].to_pylist())) == 3
    assert set(table["detection_category"].to_pylist()) == {"animal"}
    assert notes["images without a box, left out"] == 1
    assert len(read(place)) == 2  # without --crops, the image with two species is left out
    place = write(tmp_path / "labels.json", images, [seen("whole.jpg", 4)])
    with pytest.raises(InputError, match=r"none of the 1 labels .* has a box: drop --crops"):
        read(place, crops=True)
    (tmp_path / "list.csv").write_text("uri,label\na,b\n")
    with pytest.raises(InputError, match="--crops takes boxes from COCO or Camtrap DP"):
        read(tmp_path / "list.csv", crops=True)


def test_original_coco_in_a_zip(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    rows = [{"id": i, "image_id": i, "category_id": 3} for i in (1, 2)]
    place = write(tmp_path / "x.json", images, rows, [{"id": 3, "name": "dog"}])
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as archive:
        archive.write(place, "deep/labels.json")
        archive.writestr("__MACOSX/deep/._labels.json", "junk")
    touch(tmp_path, "images/a.jpg", "images/b.jpg")
    table = read(tmp_path / "labels.zip", images_root=str(tmp_path / "images"))
    assert labels_of(table, tmp_path / "images") == {"a.jpg": "dog", "b.jpg": "dog"}
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(place, "train.json")
        archive.write(place, "test.json")
    with pytest.raises(InputError, match=r"2 JSON files \(train\.json, test\.json\): unpack it"):
        read(tmp_path / "two.zip")


def test_a_download_that_broke_off(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"images": [')
    with pytest.raises(
        InputError, match=r"labels\.json is not JSON \(.*export or download it again"
    ):
        read(tmp_path / "labels.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": [], "categories": []}, r"looks like COCO Camera Traps "
         r"\(it has images\), but labels\.json lacks annotations: give a JSON with"),
        ({"images": [], "info": {}}, "lacks annotations, categories"),
        ({"images": [{"id": 1}], "categories": [], "annotations": []}, "entry 0 of its images has "
         "no file_name"),
        ({"images": [], "categories": 3, "annotations": []}, "categories are not a list"),
        ({"images": [], "categories": [], "annotations": []}, "read as COCO .* and has no labels"),
        ({"images": [], "detection_categories": {}, "info": {}}, "give it as --detections"),
        ({"some": "thing"}, "it is JSON"),
    ],
)  # fmt: skip
def test_what_is_nearly_coco(tmp_path: Path, content: Any, words: str) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=words):
        read(tmp_path / "labels.json")
