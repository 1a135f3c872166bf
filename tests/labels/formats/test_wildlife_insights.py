"""Exports of Wildlife Insights."""

from __future__ import annotations

import zipfile
from datetime import datetime
from pathlib import Path

import pytest

from monkeyray.errors import InputError
from tests.support.files import touch
from tests.support.labelled import labels_of, read, read_counted

TAXON = (
    "is_blank,identified_by,wi_taxon_id,class,order,family,genus,species,common_name,uncertainty"
)
REST = (
    "number_of_objects,age,sex,animal_recognizable,individual_id,individual_animal_notes,behavior,"
    "highlighted,markings,cv_confidence,license,bounding_boxes"
)
IMAGES = f"project_id,deployment_id,image_id,filename,location,{TAXON},timestamp,{REST}"
ANNOTATOR, MACHINE = "Annotator A", "Computer Vision"
JAGUAR = "u1,Mammalia,Carnivora,Felidae,Panthera,onca,Jaguar"
OCELOT = "u2,Mammalia,Carnivora,Felidae,Leopardus,pardalis,Ocelot"
ROWS = [
    (1, "D1", 1, ANNOTATOR, ",,,,,,", "2024-05-01 10:00:00"),
    (2, "D1", 0, ANNOTATOR, "u3,Mammalia,Primates,Hominidae,Homo,sapiens,Human-Camera Trapper", ""),
    (3, "D1", 0, ANNOTATOR, "u4,Mammalia,Primates,Hominidae,Homo,species,Human", ""),
    (4, "D2", 0, ANNOTATOR, JAGUAR, "2024-05-09 23:12:00"),
    (5, "D2", 0, MACHINE, OCELOT, ""),
    (6, "D2", 0, ANNOTATOR, "u5,Mammalia,Carnivora,Felidae,,,Cat Family", ""),
    (7, "D2", 0, ANNOTATOR, "u6,,,,,,Vehicle", ""),
    (8, "D2", 0, MACHINE, "u7,CV Failed,CV Failed,CV Failed,,,CV Failed", ""),
    (9, "D2", 0, ANNOTATOR, "u8,No CV Result,No CV Result,,,,No CV Result", ""),
    (10, "D2", 1, ANNOTATOR, "u9,Blank,Blank,Blank,,,Blank", ""),
    (11, "D2", 1, ANNOTATOR, JAGUAR, ""),
    (13, "D2", 0, MACHINE, "u7,CV Needed,CV Needed,CV Needed,,,CV Needed", ""),
    # A row for each species.
    (12, "D2", 0, ANNOTATOR, JAGUAR, ""),
    (12, "D2", 0, ANNOTATOR, OCELOT, ""),
]  # fmt: skip
LABELS = {
    "D1/0001.jpg": "blank",
    "D1/0002.jpg": "human",
    "D1/0003.jpg": "human",
    "D2/0004.jpg": "Panthera onca",
    "D2/0006.jpg": "Felidae",
    "D2/0007.jpg": "vehicle",
    "D2/0010.jpg": "blank",
}
COUNTS = {
    "without an identification, left out": 3,
    "by a machine, left out": 1,
    "images that are both blank and not, left out": 1,
    "images with several species, left out": 1,
}
DEPLOYMENTS = "project_id,deployment_id,placename,longitude\n7,D1,Hill,1\n7,D2,,2\n"


def line(row: tuple[int, str, int, str, str, str], place: str = "gs://bucket") -> str:
    number, deployment, blank, by, taxon, time = row
    path = f"{deployment}/{number:04}.jpg"
    confidence = "92" if by == MACHINE else ""
    start = f"7,{deployment},i-{number},{number:04}.jpg,{place}/{path},{blank},{by},{taxon},"
    return f"{start},{time},1,,,,,,,false,,{confidence},CC-BY-NC,"


def write(folder: Path, header: str = IMAGES, place: str = "gs://bucket") -> Path:
    """An export whose images are in two files, and the images."""
    folder.mkdir()
    for name, rows in (("images_7a.csv", ROWS[:5]), ("images_7b.csv", ROWS[5:])):
        (folder / name).write_text("\n".join([header, *(line(row, place) for row in rows)]) + "\n")
    for name in ("projects.csv", "cameras.csv"):
        (folder / name).write_text("project_id\n7\n")
    (folder / "deployments.csv").write_text(DEPLOYMENTS)
    touch(folder.parent / "photos", *(f"{row[1]}/{row[0]:04}.jpg" for row in ROWS))
    return folder


def test_every_quirk(tmp_path: Path) -> None:
    place = write(tmp_path / "export")
    photos = tmp_path / "photos"
    table, notes = read_counted(place, images_root=str(photos))
    assert labels_of(table, photos) == LABELS
    assert table["location"].to_pylist() == ["Hill"] * 3 + ["D2"] * 4
    assert table["deployment"].to_pylist() == ["D1"] * 3 + ["D2"] * 4
    times = [datetime(2024, 5, 1, 10), None, None, datetime(2024, 5, 9, 23, 12), None, None, None]
    assert table["time"].to_pylist() == times
    found_by_rule = {f"images found in {photos}/, which stands for gs://bucket/": 7}
    assert notes == COUNTS | found_by_rule
    kept = read(place, images_root=str(photos), machine_labels="keep", label_level="genus")
    assert labels_of(kept, photos) == {
        path: "Panthera" if label == "Panthera onca" else label
        for path, label in {**LABELS, "D2/0005.jpg": "Leopardus"}.items() if label != "Felidae"
    }  # fmt: skip
    named = read(place, images_root=str(photos), label_column="common_name")
    assert labels_of(named, photos)["D2/0006.jpg"] == "Cat Family"


def test_british_headers_other_addresses_and_a_zip(tmp_path: Path) -> None:
    header = IMAGES.replace("license", "licence").replace("behavior", "behaviour")
    header = header.replace("animal_recognizable", "animal_recognisable")
    place = write(tmp_path / "export", header, "https://example.org/removed")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in place.iterdir():
            archive.write(path, f"wi/{path.name}")
    for each in (place, tmp_path / "export.zip"):
        table, notes = read_counted(each, images_root=str(tmp_path / "photos"))
        assert (labels_of(table, tmp_path / "photos"), notes) == (LABELS, COUNTS)


def test_an_export_of_sequences(tmp_path: Path) -> None:
    place = tmp_path / "export"
    place.mkdir()
    header = "project_id,deployment_id,sequence_id,image_id,filename,location,timestamp"
    names = [("D1", "s1", 1), ("D1", "s1", 2), ("D2", "s1", 3), ("D2", "s2", 4), ("D2", "s3", 5)]
    lines = [
        f"7,{deployment},{sequence},i-{number},{number:04}.jpg,gs://b/{number:04}.jpg,"
        for deployment, sequence, number in names
    ]
    (place / "images.csv").write_text("\n".join([header, *lines]) + "\n")
    rest = REST.removeprefix("number_of_objects,").removesuffix(",bounding_boxes")
    sequences = (
        f"project_id,deployment_id,sequence_id,{TAXON},start_time,end_time,group_size,{rest}"
    )
    tail = ",,,,1,,,,,,,false,,,CC-BY-NC"
    rows = [
        f"7,{deployment},{sequence},{blank},{ANNOTATOR},{taxon}{tail}"
        for deployment, sequence, blank, taxon in (
            ("D1", "s1", 0, JAGUAR), ("D2", "s1", 1, ",,,,,,"), ("D2", "s2", 0, JAGUAR),
            ("D2", "s2", 0, OCELOT),
        )
    ]  # fmt: skip
    (place / "sequences.csv").write_text("\n".join([sequences, *rows]) + "\n")
    (place / "deployments.csv").write_text(DEPLOYMENTS)
    touch(tmp_path, *(f"photos/{number:04}.jpg" for *_, number in names))
    photos = tmp_path / "photos"
    labels = {"0001.jpg": "Panthera onca", "0002.jpg": "Panthera onca", "0003.jpg": "blank"}
    for each in (place, place / "images.csv"):
        table, notes = read_counted(each, images_root=str(photos))
        assert labels_of(table, photos) == labels
        assert table["sequence"].to_pylist() == ["7/D1/s1", "7/D1/s1", "7/D2/s1"]
        assert set(table["level"].to_pylist()) == {"sequence"}
        assert notes["images with several species, left out"] == 1
    with pytest.raises(
        InputError, match="all others are of sequences: give --sequence-labels keep"
    ):
        read(place, images_root=str(photos), sequence_labels="drop")
    with pytest.raises(InputError, match="has no table of images with filename or location: give"):
        read(place / "sequences.csv")
