"""LILA's CSV of all its data sets."""

from __future__ import annotations

import zipfile
from datetime import datetime
from pathlib import Path

import pytest

from monkeyray.errors import InputError
from tests.support.labelled import labels_of, read, read_counted

HEADER = (
    "dataset_name,url_gcp,url_aws,url_azure,image_id,sequence_id,location_id,frame_num,"
    "original_label,scientific_name,common_name,datetime,annotation_level,kingdom,phylum,subphylum,"
    "superclass,class,subclass,infraclass,superorder,order,suborder,infraorder,superfamily,family,"
    "subfamily,tribe,genus,subgenus,species,subspecies,variety"
)
GCP = "https://storage.googleapis.com/public-datasets-lila/"
AWS = "http://us-west-2.opendata.source.coop.s3.amazonaws.com/agentmorris/lila-wildlife/"
AZURE = "https://lilawildlife.blob.core.windows.net/lila-wildlife/"


def row(
    path: str, original: str, name: str, common: str, level: str, when: str, place: str, *taxa: str
) -> str:
    family, genus, species = taxa or ("", "", "")
    ranks = [""] * 12 + [family, "", "", genus, "", species, "", ""]
    first = ["NACTI", GCP + path, AWS + path, AZURE + path, f"NACTI : {path}", "NACTI : unknown"]
    rest = [place, "0", original, name, common, when, level, *ranks]
    return ",".join(first + rest)


ROWS = [
    row("a/1.jpg", "elk", "cervus canadensis", "elk", "image", "12-31-2014 09:52:50", "NACTI : 3",
        "cervidae", "cervus", "cervus canadensis"),
    row("a/2.jpg", "elk", "cervus canadensis", "elk", "sequence", "", "NACTI : unknown",
        "cervidae", "cervus", "cervus canadensis"),
    row("a/3.jpg", "empty", "", "empty", "unknown", "", "7"),
    row("a/4.jpg", "deer", "cervidae", "deer family", "image", "", "", "cervidae", "", ""),
    row("a/5.jpg", "human", "homo sapiens", "human", "image", "", "", "hominidae", "homo",
        "homo sapiens"),
    row("a/6.jpg", "elk", "cervus canadensis", "elk", "image", "", "", "cervidae", "cervus",
        "cervus canadensis"),
    row("a/6.jpg", "wolf", "canis lupus", "gray wolf", "image", "", "", "canidae", "canis",
        "canis lupus"),
    row("a/8.jpg", "elk", "cervus canadensis", "elk", "image", "", "").replace(GCP + "a/8.jpg", ""),
    row("a/7.jpg", "unidentified", "", "unidentified", "image", "", ""),
]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    text = "\n".join([HEADER, *ROWS]) + "\n"
    with zipfile.ZipFile(tmp_path / "lila_image_urls_and_labels.csv.zip", "w") as archive:
        archive.writestr("lila_image_urls_and_labels.csv", text)
    return tmp_path / "lila_image_urls_and_labels.csv.zip"


def test_every_quirk(table: Path) -> None:
    found, notes = read_counted(table)
    assert labels_of(found, "gs://public-datasets-lila") == {
        "a/1.jpg": "cervus canadensis",
        "a/2.jpg": "cervus canadensis",
        "a/3.jpg": "blank",
        "a/4.jpg": "cervidae",
        "a/5.jpg": "human",
    }
    assert found["location"].to_pylist() == ["NACTI : 3", None, "NACTI : 7", None, None]
    assert found["sequence"].to_pylist() == [None] * 5
    assert found["level"].to_pylist() == ["image", "sequence", None, "image", "image"]
    assert found["time"].to_pylist() == [datetime(2014, 12, 31, 9, 52, 50), *[None] * 4]
    assert notes == {
        "of images or sequences, which the table does not say": 1,
        "without an identification, left out": 1,
        "without a path, left out": 1,
        "of sequences, kept for each image, although not every one shows the animal": 1,
        "images with several species, left out": 1,
    }


def test_one_of_three_clouds_is_chosen(table: Path) -> None:
    s3 = read(table, uri_column="url_aws")["uri"][0].as_py()
    assert s3 == "s3://us-west-2.opendata.source.coop/agentmorris/lila-wildlife/a/1.jpg"
    assert read(table, uri_column="url_azure")["uri"][0].as_py() == f"{AZURE}a/1.jpg"


def test_columns_and_levels(table: Path) -> None:
    chosen = {"label_column": "common_name", "group_column": "dataset_name"}
    found = read(table, **chosen)
    assert found["label"].to_pylist() == ["elk", "elk", "blank", "deer family", "human"]
    assert set(found["group"].to_pylist()) == {"NACTI"}
    found, notes = read_counted(table, label_level="species", sequence_labels="drop")
    assert found["label"].to_pylist() == ["cervus canadensis", "blank", "human"]
    assert notes["not identified to the species, left out"] == 1
    assert notes["of sequences, left out"] == 1
    family = read(table, label_level="family")["label"].to_pylist()
    assert family == ["cervidae", "cervidae", "blank", "cervidae", "human"]
    genus = read(table, label_level="genus")["label"].to_pylist()
    assert genus == ["cervus", "cervus", "blank", "human"]


def test_what_is_nearly_lilas(tmp_path: Path) -> None:
    place = tmp_path / "lila.csv"
    text = "\n".join([HEADER, *ROWS])
    place.write_text(text.replace("annotation_level", "level"))
    with pytest.raises(InputError, match=r"looks like LILA's table .* lacks annotationlevel: take"):
        read(place)
    for cloud in ("gcp", "aws", "azure"):
        text = text.replace(f"url_{cloud}", f"{cloud}_address")
    place.write_text(text)
    with pytest.raises(InputError, match=r"lacks url_gcp, url_aws, .* give --uri-column"):
        read(place)
    assert len(read(place, uri_column="gcp_address")) == 5
