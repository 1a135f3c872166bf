"""Labels out of folders and tables."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import InputError
from monkeyray.images.listing import list_images
from monkeyray.labels.listing import list_labelled
from monkeyray.labels.names import read_label_names
from monkeyray.labels.schema import CONTEXT
from monkeyray.storage.archives import CUT
from monkeyray.storage.store import Storage
from tests.support.files import touch

STORAGE = Storage()


def test_labels_are_the_first_sub_folders(tmp_path: Path) -> None:
    inner = tmp_path / "training" / "training"
    touch(inner, "n0/a.jpg", "n0/deep/b.jpg", "n1/n1151jpg", "n1/.DS_Store", "n1/x.txt")
    for root in (tmp_path, tmp_path / "training", inner):
        skipped: Counter[str] = Counter()
        table = list_labelled(str(root), STORAGE, skipped)
        assert table["label"].to_pylist() == ["n0", "n0", "n1"]
        assert +skipped == Counter({"hidden": 1, "side-car": 1})


def test_the_whole_members_of_a_cut_archive_have_labels(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/1.jpg", "in/b/1.jpg", "in/c/1.jpg")
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(tmp_path / "in", "in")
    os.truncate(path, 4608)
    skipped: Counter[str] = Counter()
    table = list_labelled(str(path), STORAGE, skipped)
    assert table["label"].to_pylist() == ["a", "b"]
    assert +skipped == Counter({CUT: 1})
    os.truncate(path, 100)
    with pytest.raises(InputError, match=r"no images in .*cut\.tar: not a tar archive, or cut off"):
        list_labelled(str(path), STORAGE, Counter())


def test_folders_whose_names_are_not_utf8(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path) + b"/caf\xe9"
    for name in (b"red howler/b.jpg", b"red howler/notes.txt", b"grey/\xe9.jpg", b".hid/c.jpg"):
        os.makedirs(os.path.dirname(root + b"/" + name), exist_ok=True)  # noqa: PTH103, PTH120
        with open(root + b"/" + name, "wb") as file:
            file.write(b"x")
    for place in (os.fsdecode(root), f"file://{tmp_path}/caf%E9"):
        skipped: Counter[str] = Counter()
        table = list_labelled(place, STORAGE, skipped)
        assert table["label"].to_pylist() == ["grey", "red howler"]
        assert +skipped == Counter({"hidden": 1, "side-car": 1})
        (chosen,) = list_images(place, STORAGE, Counter(), ["red howler/*"], ["grey/*"])
        assert chosen["uri"].to_pylist() == [f"file://{tmp_path}/caf%E9/red%20howler/b.jpg"]
    (one,) = list_images(os.fsdecode(root + b"/grey/\xe9.jpg"), STORAGE, Counter())
    assert one["uri"].to_pylist() == [f"file://{tmp_path}/caf%E9/grey/%E9.jpg"]
    touch(tmp_path, "b/x.jpg")
    with pytest.raises(InputError, match=r"label 'caf\\udce9' .* is not UTF-8"):
        list_labelled(str(tmp_path), STORAGE, Counter())


def test_splits_are_not_labels(tmp_path: Path) -> None:
    touch(tmp_path, "in/training/a/1.jpg", "in/training/b/1.jpg", "in/Test/a/2.jpg")
    with pytest.raises(InputError, match="look like splits") as caught:
        list_labelled(str(tmp_path), STORAGE, Counter())
    give = f"give --images {tmp_path}/in/training --test {tmp_path}/in/Test"
    assert str(caught.value).endswith(give)
    touch(tmp_path, "in/other/a/1.jpg")
    labels = list_labelled(str(tmp_path), STORAGE, Counter())["label"].to_pylist()
    assert labels == ["Test", "other", "training", "training"]


@pytest.mark.parametrize("kind", ["csv", "semicolon.csv", "parquet"])
def test_manifests(tmp_path: Path, kind: str) -> None:
    columns = {
        "uri": ["in/a.jpg", "/abs/b.jpg", "s3://bucket/c 100%.jpg", "../d.jpg", "in/a.jpg"],
        "label": ["x", "y", "x", "y", "x"],
        "camera": ["1", "2", "3", "4", "1"],
    }
    path = tmp_path / f"list.{kind}"
    if kind.endswith("csv"):
        # As spreadsheets write it where the comma is in numbers.
        mark = ";" if "semicolon" in kind else ","
        rows = [mark.join(row) for row in zip(*columns.values(), strict=True)]
        path.write_text("\ufeff" + "\n".join([mark.join(columns), *rows]))
    else:
        pq.write_table(pa.table(columns), path)
    table = list_labelled(str(path), STORAGE, Counter())
    assert table["uri"].to_pylist() == [
        str(tmp_path / "in" / "a.jpg"),
        "/abs/b.jpg",
        "s3://bucket/c 100%.jpg",
        str(tmp_path.parent / "d.jpg"),
    ]
    assert table["camera"].to_pylist() == ["1", "2", "3", "4"]


def test_a_manifest_says_where_and_when_images_were_taken(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "uri,label,site,camera,sequence,time\n"
        "a,x, S1 ,C1,e1,2024-05-01 10:00:00\nb,x,,C2,NA,2024:05:02 11:00:00+02:00\nc,y,S2,,,noon\n"
    )
    table = list_labelled(str(tmp_path / "list.csv"), STORAGE, Counter())
    assert table.schema.field("time").type == pa.timestamp("us")
    assert table.select(CONTEXT.names).to_pydict() == {
        "location": ["S1", None, "S2"],
        "deployment": ["C1", "C2", None],
        "sequence": ["e1", None, None],
        "time": [datetime(2024, 5, 1, 10), datetime(2024, 5, 2, 11), None],
        "level": ["image"] * 3,
        "by": [None] * 3,
    }
    touch(tmp_path, "in/x/a.jpg")
    folder = list_labelled(str(tmp_path / "in"), STORAGE, Counter()).select(CONTEXT.names)
    assert folder.to_pylist() == [dict.fromkeys(CONTEXT.names) | {"level": "image"}]


def test_labels_are_in_one_unicode_form(tmp_path: Path) -> None:
    touch(tmp_path, "in/E\u0301land/1.jpg", "in/\u00c9land/2.jpg")
    assert set(list_labelled(str(tmp_path / "in"), STORAGE, Counter())["label"].to_pylist()) == {
        "\u00c9land"
    }
    text = "uri,label,name\na.jpg,E\u0301land,eland\nb.jpg,\u00c9land,eland\n"
    (tmp_path / "list.csv").write_text(text)
    place = str(tmp_path / "list.csv")
    table = list_labelled(place, STORAGE, Counter())
    assert table["label"].to_pylist() == ["\u00c9land"] * 2
    assert read_label_names(place, STORAGE) == {"\u00c9land": "eland"}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_blank_groups_are_null(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        path.write_text('uri,label,group\na,x,\nb,x,"  "\nc,x,3\nd,x,""\n')
    else:
        # As pandas writes a column of whole numbers in which some are missing.
        group = pa.array([None, float("nan"), 3.0, float("nan")], pa.float64())
        pq.write_table(pa.table({"uri": list("abcd"), "label": ["x"] * 4, "group": group}), path)
    table = list_labelled(str(path), STORAGE, Counter())
    assert table["group"].to_pylist() == [None, None, "3", None]


def test_a_nan_label_is_missing(tmp_path: Path) -> None:
    table = pa.table({"uri": ["a", "b"], "label": [1.0, float("nan")]})
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(InputError, match="1 row with no label"):
        list_labelled(str(tmp_path / "list.parquet"), STORAGE, Counter())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uri,uri\na,b\n", "two columns 'uri'"),
        ("uri,label,label\na,b,c\n", "two columns 'label'"),
        ("path,label\na,b\n", "no column 'uri', only path, label: .* --uri-column"),
        ("uri,name\na,b\n", "no column 'label', only uri, name: .* --label-column"),
        ("uri,label\n", "list.csv: it has no rows"),
        ("uri,label\na,b\na,c\n", "two labels"),
        ("uri,label\na,\n", "1 row with no label"),
        ("uri,label\na,NA\nb,NaN\nc,null\nd,Nasua\n", "3 rows with no label .blank, or NA"),
        ("uri,label\n,b\n", "1 row with no uri"),
        ("uri,label,split\na,b,holdout\n", "split 'holdout'"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        list_labelled(str(tmp_path / "list.csv"), STORAGE, Counter())


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        list_labelled(str(tmp_path), STORAGE, Counter())
    touch(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="no sub-folders"):
        list_labelled(str(tmp_path), STORAGE, Counter())
