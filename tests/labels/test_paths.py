"""Images that labels name, as Windows, servers and other machines write paths."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monkeyray.errors import InputError
from monkeyray.labels.listing import list_labelled
from monkeyray.storage.store import Storage
from tests.support.files import touch, upload
from tests.support.labelled import labels_of, read, read_counted

FILES = [f"site{i}/cam{j}/IMG_0001.JPG" for i in range(3) for j in range(2)]


def write(place: Path, names: list[str]) -> Path:
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    labels = [{"id": i, "image_id": i, "category_id": 1} for i in range(len(names))]
    content = {"images": images, "annotations": labels, "categories": [{"id": 1, "name": "fox"}]}
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(content))
    return place


@pytest.mark.parametrize(
    "start",
    [
        "",
        "./",
        "season3/",
        "/home/someone/photos/",
        "D:\\photos\\season3\\",
        "\\\\server\\share\\season3\\",
        "gs://bucket/season3/",
        "https://example.org/season3/",
    ],
)
def test_one_rule_finds_all_names(tmp_path: Path, start: str) -> None:
    touch(tmp_path / "images", *FILES)
    names = [f"{start}{name}" for name in FILES]
    if "\\" in start:
        names = [name.replace("/", "\\") for name in names]
    place = write(tmp_path / "labels.json", names)
    found = read(place, images_root=str(tmp_path / "images"))
    assert set(labels_of(found, tmp_path / "images")) == set(FILES)
    assert None not in found["version"].to_pylist()


def test_names_without_the_first_folder_and_beside_the_table(tmp_path: Path) -> None:
    touch(tmp_path, *(f"deep/images/{name}" for name in FILES))
    place = write(tmp_path / "labels.json", FILES)
    found, notes = read_counted(place)
    assert set(labels_of(found, tmp_path / "deep/images")) == set(FILES)
    assert notes == {f"images found in {tmp_path}/deep/images/": 6}


def test_whole_paths_of_this_machine(tmp_path: Path) -> None:
    touch(tmp_path / "images", *FILES)
    place = write(tmp_path / "elsewhere/x.json", [f"{tmp_path}/images/{name}" for name in FILES])
    assert set(labels_of(read(place), tmp_path / "images")) == set(FILES)


def test_several_names_of_one_image(tmp_path: Path) -> None:
    touch(tmp_path, *FILES)
    place = write(tmp_path / "labels.json", [*FILES, f"{tmp_path}/{FILES[0]}"])
    assert sorted(labels_of(read(place), tmp_path)) == FILES
    content = json.loads(place.read_text())
    content["categories"].append({"id": 2, "name": "elk"})
    content["annotations"][-1]["category_id"] = 2
    place.write_text(json.dumps(content))
    found, notes = read_counted(place)
    assert sorted(labels_of(found, tmp_path)) == FILES[1:]
    assert notes == {"images with several labels, left out": 1}
    with pytest.raises(InputError, match=r"IMG_0001\.JPG two labels"):
        read(place, several_labels="refuse")


def test_damaged_archives(tmp_path: Path) -> None:
    place = write(tmp_path / "labels.json", FILES)
    with zipfile.ZipFile(tmp_path / "labels.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(place, "labels.json")
    data = bytearray((tmp_path / "labels.zip").read_bytes())
    data[60:90] = bytes(30)
    (tmp_path / "labels.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"labels\.zip is damaged, or packed in a way"):
        read(tmp_path / "labels.zip")
    (tmp_path / "labels.zip").write_bytes(data[:-30])
    with pytest.raises(InputError, match=r"labels\.zip is not a zip archive"):
        read(tmp_path / "labels.zip")
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        archive.writestr(
            "datapackage.json", '{"resources": [{"name": "media", "path": "media.csv"}]}'
        )
    with pytest.raises(InputError, match=r"the table media\.csv in .*package\.zip does not exist"):
        read(tmp_path / "package.zip")


def test_images_that_are_not_there(tmp_path: Path) -> None:
    touch(tmp_path / "images", *FILES[:2])
    names = [*FILES, *(f"site9/{i}.jpg" for i in range(4))]
    place = write(tmp_path / "labels.json", names)
    found, notes = read_counted(place, images_root=str(tmp_path / "images"))
    assert set(labels_of(found, tmp_path / "images")) == set(FILES[:2])
    some = ", ".join(names[2:7])
    assert notes == {f"images that are not in {tmp_path}/images, left out ({some})": 8}


def test_no_image_is_found(tmp_path: Path) -> None:
    touch(tmp_path / "images", *FILES)
    touch(tmp_path / "tables", "other.jpg")
    place = write(tmp_path / "tables/labels.json", [f"images/{name}" for name in FILES])
    with pytest.raises(InputError, match=f"none of the 6 images .* give --images-root {tmp_path}$"):
        read(place)
    place = write(tmp_path / "tables/labels.json", ["D:\\a\\b\\gone.jpg"])
    words = r"are such as D:/a/b/gone\.jpg: give --images-root the folder that has b in it"
    with pytest.raises(InputError, match=words):
        read(place)


def test_two_rules_that_find_as_many(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    with pytest.raises(InputError, match="give --images-root the folder that the names are rel"):
        read(write(tmp_path / "labels.json", ["1.jpg"]))


def test_names_are_found_among_given_ones(tmp_path: Path) -> None:
    place = write(tmp_path / "labels.json", ["E:\\x\\1.jpg", "E:\\x\\2.jpg"])
    known = pa.array(["s3://bucket/season/1.jpg", "s3://bucket/season/other.jpg"])
    found, _ = read_counted(place, known)
    assert labels_of(found) == {"s3://bucket/season/1.jpg": "fox"}
    with pytest.raises(InputError, match="is not a table"):
        read_counted(tmp_path, known)


def test_a_zip_and_its_images_in_a_bucket(s3: Storage, tmp_path: Path) -> None:
    place = write(tmp_path / "labels.json", [f"D:\\{name}" for name in FILES])
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as archive:
        archive.write(place, "labels.json")
    s3.write("s3://photos/labels/labels.zip", (tmp_path / "labels.zip").read_bytes())
    touch(tmp_path / "images", *FILES)
    upload(s3, tmp_path / "images", "s3://photos/labels/images")
    found = list_labelled("s3://photos/labels/labels.zip", s3, Counter())
    assert set(labels_of(found, "s3://photos/labels/images")) == set(FILES)
    assert None not in found["version"].to_pylist()


def test_a_plain_table_with_other_columns_and_a_root(tmp_path: Path) -> None:
    table = tmp_path / "tables/list.csv"
    table.parent.mkdir()
    table.write_text("path,name,label,herd\na.jpg,fox,1,h\nb.jpg,elk,2,h\na.jpg,elk,1,h\n")
    chosen: dict[str, Any] = {
        "uri_column": "path",
        "label_column": "name",
        "group_column": "herd",
        "images_root": "s3://bucket/season",
    }
    with pytest.raises(InputError, match=r"season/a\.jpg two labels .* --several-labels drop"):
        read(table, **chosen)
    found, notes = read_counted(table, several_labels="drop", **chosen)
    assert labels_of(found) == {"s3://bucket/season/b.jpg": "elk"}
    assert found["group"].to_pylist() == ["h"]
    assert notes == {"images with several labels, left out": 1}
    _, notes = read_counted(table, several_labels="drop", label_level="genus", **chosen)
    assert notes[f"of {table}, which has no taxa for --label-level"] == 3
    table.write_text("path,name,herd\na.jpg,fox,h\na.jpg,elk,h\n")
    with pytest.raises(InputError, match=r"no image in .* a single label \(1 with several\): keep"):
        read(table, several_labels="drop", **chosen)
    # As a table of corrections, which has the usual names.
    table.write_text("uri,label\n/x/a.jpg,fox\n")
    assert labels_of(read(table, **chosen)) == {"/x/a.jpg": "fox"}
