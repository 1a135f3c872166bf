"""Camtrap DP packages as labels: the standard's example, every quirk, and MonkeyRay's own."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import zipfile
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import InputError
from tests.support.camtrap import TIME, make_package, read_csv
from tests.support.files import touch
from tests.support.labelled import labels_of, read, read_counted
from tests.support.predicted import scored
from tests.support.required import skip_or_fail

MEDIA = "mediaID,deploymentID,timestamp,filePath,filePublic,fileName,fileMediatype"
OBSERVATIONS = (
    "observationID,deploymentID,mediaID,eventID,eventStart,eventEnd,observationLevel,"
    "observationType,cameraSetupType,scientificName,classificationMethod,bboxX,bboxY,bboxWidth,"
    "bboxHeight,observationTags"
)
DEPLOYMENTS = "deploymentID,locationID,locationName\nd1,l1,brook\nd2,,ridge\nd3,,\n"
TAXONOMIC = [
    {"scientificName": "Vulpes vulpes", "taxonRank": "species", "family": "Canidae"},
    {"scientificName": "Canidae", "taxonRank": "family"},
]


def medium(name: str, deployment: str, moment: str, path: str = "", kind: str = "jpeg") -> str:
    path = path or f"{deployment}/{name}.jpg"
    media = "video/mp4" if kind == "mp4" else f"image/{kind}"
    return f"{name},{deployment},2020-05-30T{moment},{path},true,{name}.JPG,{media}"


def seen(
    media: str, kind: str, name: str = "", *, deployment: str = "d1", event: str = "",
    first: str = "", last: str = "", setup: str = "", by: str = "human", box: str = ",,,",
) -> str:  # fmt: skip
    level = "media" if media else "event"
    times = f"2020-05-30T{first},2020-05-30T{last}" if first else ","
    start = f"o,{deployment},{media},{event},{times},{level},{kind},{setup},{name},{by}"
    return f"{start},{box},"


def write(folder: Path, rows: list[str], seen: list[str], **resources: Any) -> Path:
    """A package of CSVs; `resources`: the path or paths of a table that is not one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "media.csv").write_text("\n".join([MEDIA, *rows]) + "\n")
    (folder / "observations.csv").write_text("\n".join([OBSERVATIONS, *seen]) + "\n")
    (folder / "deployments.csv").write_text(DEPLOYMENTS)
    paths = {name: f"{name}.csv" for name in ("deployments", "media", "observations")} | resources
    listed = [{"name": name, "path": path} for name, path in paths.items()]
    content = {"profile": "x", "resources": listed, "taxonomic": TAXONOMIC}
    (folder / "datapackage.json").write_text(json.dumps(content))
    return folder


ALL_MEDIA = [
    medium("m1", "d1", "04:57:37+02:00"),
    medium("m2", "d1", "02:57:40Z"),
    medium("m3", "d1", "02:57:45.5Z"),
    medium("m4", "d1", "02:57:41Z", kind="mp4"),
    medium("m5", "d2", "02:57:40Z"),
    medium("m6", "d2", "12:00:00Z"),
    medium("m7", "d3", "12:00:00Z"),
    medium("m8", "d1", "13:00:00Z"),
    medium("m9", "d1", "13:00:01Z"),
]
ALL_SEEN = [
    # The event of m1 and m2 (of which m2 has its own observation) and of the video.
    seen("", "animal", "Vulpes vulpes", event="e1", first="02:57:37Z", last="02:57:44Z"),
    seen("m2", "animal", "Vulpes vulpes", event="e1", box='"0,25","0,5",0.25,2.5e-1'),
    seen("m4", "animal", "Vulpes vulpes"),
    seen("m3", "animal", "Vulpes vulpes", by="machine"),
    seen("m5", "blank", deployment="d2", box="0.5,0.5,0.9,0.1"),
    seen("m6", "human", deployment="d2"),
    seen("m7", "animal", "Canidae", deployment="d3"),
    seen("m8", "human", setup="setup"),
    seen("m9", "unclassified"),
    seen("", "animal", "Vulpes vulpes", first="20:00:00Z", last="20:00:01Z"),
    seen("gone", "animal", "Vulpes vulpes"),
]
COUNTS = {
    "of cameras being set up or calibrated, left out": 1,
    "observations without media in the package, left out": 2,
    "of videos, left out": 2,
    "without an identification, left out": 1,
    "by a machine, left out": 1,
    "of sequences whose images have their own, left out": 1,
    "of sequences, kept for each image, although not every one shows the animal": 1,
}
LABELS = {
    "d1/m1.jpg": "Vulpes vulpes",
    "d1/m2.jpg": "Vulpes vulpes",
    "d2/m5.jpg": "blank",
    "d2/m6.jpg": "human",
    "d3/m7.jpg": "Canidae",
}


def images(root: Path) -> None:
    touch(root, *(row.split(",")[3] for row in ALL_MEDIA))


def test_every_quirk(tmp_path: Path) -> None:
    package = write(tmp_path / "package", ALL_MEDIA, ALL_SEEN)
    images(package)
    for place in (package, package / "datapackage.json"):
        table, notes = read_counted(place)
        assert labels_of(table, package) == LABELS
        assert notes == COUNTS
    assert table["level"].to_pylist() == ["sequence", "box", "image", "image", "image"]
    assert table["sequence"].to_pylist() == ["e1", "e1", None, None, None]
    assert table["deployment"].to_pylist() == ["d1", "d1", "d2", "d2", "d3"]
    assert table["location"].to_pylist() == ["l1", "l1", "ridge", "ridge", "d3"]
    assert table["time"][0].as_py() == datetime(2020, 5, 30, 4, 57, 37)
    table, notes = read_counted(package, sequence_labels="drop", machine_labels="keep")
    assert set(labels_of(table, package)) == {*LABELS, "d1/m3.jpg"} - {"d1/m1.jpg"}
    assert table["by"].to_pylist().count("machine") == 1
    family = read(package, label_level="family")["label"].to_pylist()
    assert family == ["Canidae", "Canidae", "blank", "human", "Canidae"]
    table, notes = read_counted(package, label_level="genus")
    assert table["label"].to_pylist() == ["Vulpes", "Vulpes", "blank", "human"]
    assert notes["not identified to the genus, left out"] == 1


@pytest.mark.parametrize("root", ["", "a-package/"])
def test_zipped_with_gzip_parquet_and_several_files(tmp_path: Path, root: str) -> None:
    parts = {"media": ["media-1.csv.gz", "media-2.csv"], "observations": "observations.parquet"}
    package = write(tmp_path / "package", ALL_MEDIA, ALL_SEEN, **parts)
    rows = read_csv(package / "observations.csv")
    columns = {name: pa.array([row[name] or None for row in rows]) for name in rows[0]}
    pq.write_table(pa.table(columns), package / "observations.parquet")
    for number, half in enumerate((ALL_MEDIA[:4], ALL_MEDIA[4:]), 1):
        text = "\n".join([MEDIA, *half]).encode()
        name = f"media-{number}.csv"
        (package / name).write_bytes(text)
        (package / f"{name}.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for name in (
            "datapackage.json",
            "deployments.csv",
            *parts["media"],
            "observations.parquet",
        ):
            archive.write(package / name, root + name)
    images(tmp_path)
    table, notes = read_counted(tmp_path / "package.zip")
    assert (labels_of(table, tmp_path), notes) == (LABELS, COUNTS)


def test_events_by_a_table_of_their_own(tmp_path: Path) -> None:
    package = write(tmp_path, ALL_MEDIA, [seen("", "vehicle", event="e5")])
    (package / "events.csv").write_text("eventID,mediaID\ne5,m8\ne5,m9\n")
    images(package)
    assert labels_of(read(package), package) == {"d1/m8.jpg": "vehicle", "d1/m9.jpg": "vehicle"}


def test_copied_files_of_web_addresses(tmp_path: Path) -> None:
    media = [medium("m1", "d1", "12:00:00Z", "https://agouti.eu/assets/8f2e/file")]
    package = write(tmp_path / "package", media, [seen("m1", "blank")])
    assert labels_of(read(package)) == {"https://agouti.eu/assets/8f2e/file": "blank"}
    touch(tmp_path, "copies/m1.JPG")
    copies = tmp_path / "copies"
    assert labels_of(read(package, images_root=str(copies)), copies) == {"m1.JPG": "blank"}


def test_what_is_nearly_a_package(tmp_path: Path) -> None:
    package = write(tmp_path, ALL_MEDIA, ALL_SEEN)
    with pytest.raises(
        InputError, match="is one table of a Camtrap DP package: give the package's"
    ):
        read(package / "observations.csv")
    text = (package / "media.csv").read_text()
    (package / "media.csv").write_text(text.replace("filePath", "path"))
    with pytest.raises(
        InputError, match="looks like a Camtrap DP package, but its media lack fileP"
    ):
        read(package)
    (package / "media.csv").unlink()
    with pytest.raises(InputError, match=r"the table media\.csv in .* does not exist"):
        read(package)
    write(tmp_path, ALL_MEDIA, ALL_SEEN, media="../media.csv")
    with pytest.raises(InputError, match="it must be in the package"):
        read(package)
    (package / "datapackage.json").write_text('{"profile": "x", "name": "y"}')
    with pytest.raises(InputError, match=r"datapackage\.json lacks resources"):
        read(package)
    (package / "datapackage.json").write_text('{"resources": []}')
    with pytest.raises(InputError, match="its media are missing"):
        read(package)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the standard's own example."""
    root = os.environ.get("MONKEYRAY_PHOTOS")
    folder = Path(root or ".") / "camtrap-dp" / "example"
    if not root or not (folder / "media.csv").is_file():
        skip_or_fail("set MONKEYRAY_PHOTOS to a folder that holds camtrap-dp with its example")
    shutil.copytree(folder, tmp_path / "example", copy_function=shutil.copyfile)
    (tmp_path / "example").chmod(0o755)
    return tmp_path / "example"


def test_the_standards_example_at_both_levels(example: Path) -> None:
    by_media, notes = read_counted(example)
    kinds = Counter(by_media["label"].to_pylist())
    assert (by_media.num_rows, kinds["blank"], kinds["vehicle"]) == (312, 105, 20)
    assert kinds["Anas platyrhynchos"] == 117
    assert set(by_media["level"].to_pylist()) == {"image"}
    assert len(set(by_media["location"].to_pylist())) == 4
    # Of 27 + 3 + 1 events, each label of which some image would get.
    assert notes["of sequences whose images have their own, left out"] == 430
    assert notes["of sequences that differ from their images' own"] == 53
    rows = read_csv(example / "observations.csv")
    with open(example / "observations.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row for row in rows if row["observationLevel"] == "event")
    by_event, notes = read_counted(example)
    assert set(by_event["level"].to_pylist()) == {"sequence"}
    ours, theirs = labels_of(by_media), labels_of(by_event)
    both = ours.keys() & theirs.keys()
    # What an event shows, some of its images do not.
    differ = Counter((ours[uri], theirs[uri]) for uri in both if ours[uri] != theirs[uri])
    assert (len(both), differ.total()) == (300, 53)
    assert {mine for mine, _ in differ} == {"blank"}


def test_our_own_export_is_the_same_table(tmp_path: Path) -> None:
    rows = [
        scored("/x/A/1/a.jpg", ("fox", 0.9), captured_at=TIME),
        scored("/x/A/1/b.jpg", ("roe deer", 0.8), captured_at=TIME),
        scored("/x/B/1/c.jpg", ("blank", 0.7), captured_at=TIME),
        scored("/x/B/1/d.jpg", ("human", 0.6), captured_at=TIME),
    ]
    make_package(tmp_path, rows)
    touch(tmp_path / "x", *(row["uri"].removeprefix("/x/") for row in rows))
    where = {"images_root": str(tmp_path / "x")}
    table = read(tmp_path / "package", machine_labels="keep", **where)
    names = {"fox": "Vulpes vulpes"}
    assert labels_of(table, tmp_path / "x") == {
        row["uri"].removeprefix("/x/"): names.get(row["label"], row["label"]) for row in rows
    }
    assert set(table["by"].to_pylist()) == {"machine"}
    with pytest.raises(InputError, match="all others are a machine's: give --machine-labels keep"):
        read(tmp_path / "package", **where)
