"""Timelapse's CSV and database."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from pathlib import Path

import pytest

from monkeyray.errors import InputError
from tests.support.files import touch
from tests.support.labelled import labels_of, read, read_counted

HEADER = "RootFolder,File,RelativePath,{when},DeleteFlag,animal,empty,person,vehicle,Species,Count,"
ROWS = [
    ("IMG_1.JPG", r"S1\CAM1", "false", "true,false,false,false", "Fox"),
    ("IMG_2.JPG", r"S1\CAM1", "false", "false,true,false,false", ""),
    ("IMG_3.JPG", r"S1\CAM2", "False", "false,false,true,false", ""),
    ("IMG_4.JPG", r"S1\CAM2", "false", "false,false,false,true", ""),
    ("IMG_5.JPG", r"S1\CAM2", "false", "true,true,false,false", "Fox"),
    # A record duplicated for a second species, and one that says the same twice.
    ("IMG_6.JPG", r"S1\CAM2", "false", "true,false,false,false", "Fox"),
    ("IMG_6.JPG", r"S1\CAM2", "false", "true,false,false,false", "Möwe"),
    ("IMG_7.JPG", r"S1\CAM2", "false", "true,false,false,false", "Möwe"),
    ("IMG_7.JPG", r"S1\CAM2", "false", "true,false,false,false", "Möwe"),
    ("IMG_8.JPG", "", "true", "true,false,false,false", "Fox"),
    ("IMG_9.JPG", "", "false", "false,false,false,false", ""),
]  # fmt: skip
LABELS = {
    "S1/CAM1/IMG_1.JPG": "Fox",
    "S1/CAM1/IMG_2.JPG": "blank",
    "S1/CAM2/IMG_3.JPG": "human",
    "S1/CAM2/IMG_4.JPG": "vehicle",
    "S1/CAM2/IMG_7.JPG": "Möwe",
}
COUNTS = {
    "of images marked for deletion, left out": 1,
    "without an identification, left out": 1,
    "images with several species, left out": 1,
    "images that are both blank and not, left out": 1,
    "manifest paths with backslashes, read as slashes": 10,
}


def images(root: Path) -> None:
    touch(root, *(f"{folder}/{file}".replace("\\", "/") for file, folder, *_ in ROWS))


@pytest.mark.parametrize(
    ("when", "moment"),
    [
        ("DateTime", "2021-03-01 09:30:00"),
        ("DateTime", " 2021-03-01T09:30:00"),
        ("Date,Time", "01-Mar-2021,09:30:00"),
        ("Date,Time", " 01-Mar-2021, 09:30:00"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_every_quirk_of_the_csv(tmp_path: Path, when: str, moment: str, encoding: str) -> None:
    images(tmp_path)
    lines = [HEADER.format(when=when)]
    lines += [
        f"Season3,{file},{folder},{moment},{gone},{flags},{name},1,"
        for file, folder, gone, flags, name in ROWS
    ]
    (tmp_path / "TimelapseData.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode(encoding))
    table, notes = read_counted(tmp_path / "TimelapseData.csv")
    assert labels_of(table, tmp_path) == LABELS
    assert set(table["time"].to_pylist()) == {datetime(2021, 3, 1, 9, 30)}
    assert table["deployment"].to_pylist() == ["S1/CAM1"] * 2 + ["S1/CAM2"] * 3
    assert table["location"].to_pylist() == table["deployment"].to_pylist()
    assert set(table["by"].to_pylist()) == {"human"}
    assert notes == COUNTS


def test_a_database_is_only_read(tmp_path: Path) -> None:
    images(tmp_path)
    place = tmp_path / "TimelapseData.ddb"
    with sqlite3.connect(place) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE TemplateTable (Type TEXT, DataLabel TEXT)")
        columns = "File, RelativePath, DateTime, DeleteFlag, animal, empty, person, vehicle, Kind"
        names = [f"{each.strip()} TEXT" for each in columns.split(",")]
        database.execute(f"CREATE TABLE DataTable (Id INTEGER PRIMARY KEY, {','.join(names)})")
        for file, folder, gone, flags, name in ROWS:
            values = (file, folder, "2021-03-01 09:30:00", gone, *flags.split(","), name)
            marks = ",".join("?" * len(values))
            database.execute(f"INSERT INTO DataTable ({columns}) VALUES ({marks})", values)
    database.close()
    before = place.read_bytes()
    with pytest.raises(
        InputError, match=r"no Species: .*--label-column: Kind, animal, empty, person"
    ):
        read(place)
    with pytest.raises(InputError, match="it has no kind: "):
        read(place, label_column="kind")
    table, notes = read_counted(place, label_column="Kind")
    assert labels_of(table, tmp_path) == LABELS
    assert notes == COUNTS
    assert place.read_bytes() == before
    assert set(tmp_path.glob("*.ddb*")) == {place}


def test_a_template(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "t.tdb") as database:
        database.execute("CREATE TABLE TemplateTable (Type TEXT, DataLabel TEXT)")
    with pytest.raises(InputError, match=r"lacks datatable: give the \.ddb"):
        read(tmp_path / "t.tdb")


def test_a_column_of_labels_that_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    (tmp_path / "t.csv").write_text(
        "File,RelativePath,DateTime,DeleteFlag,Species\na.jpg,,,0,Fox\n"
    )
    table, notes = read_counted(tmp_path / "t.csv", label_column="species")
    assert labels_of(table, tmp_path) == {"a.jpg": "Fox"}
    assert notes == {"read from the usual column, since there is no column species": 1}


def test_a_csv_without_the_folder_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("File,DateTime,DeleteFlag,Species,\na.jpg,,false,Fox,\n")
    with pytest.raises(
        InputError, match=r"looks like a CSV of Timelapse .* lacks relativepath: exp"
    ):
        read(tmp_path / "t.csv")
    touch(tmp_path, "a.jpg")
    named = read(tmp_path / "t.csv", uri_column="File", label_column="Species")
    assert labels_of(named, tmp_path) == {"a.jpg": "Fox"}
