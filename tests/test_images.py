"""Folders, prefixes and manifests; labels and their names."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import InputError
from monkeyray.images import list_images, list_labelled, read_label_names
from monkeyray.storage import Storage

STORAGE = Storage()


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_labels_are_the_first_sub_folders(tmp_path: Path) -> None:
    inner = tmp_path / "training" / "training"
    touch(inner, "n0/a.jpg", "n0/deep/b.jpg", "n1/n1151jpg", "n1/.DS_Store", "n1/x.txt")
    for root in (tmp_path, tmp_path / "training", inner):
        skipped: Counter[str] = Counter()
        table = list_labelled(str(root), STORAGE, skipped)
        assert table["label"].to_pylist() == ["n0", "n0", "n1"]
        assert +skipped == Counter({"hidden": 1, "side-car": 1})


def test_names_that_are_no_text_are_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "n0"
    folder.mkdir()
    path = os.fsencode(folder) + b"/caf\xe9 100%.jpg"
    with open(path, "wb") as file:
        file.write(b"x")
    (table,) = list_images(str(tmp_path), STORAGE, Counter())
    (uri,) = table["uri"].to_pylist()
    assert uri == f"file://{folder}/caf%E9%20100%25.jpg"
    assert STORAGE.read(uri).data == b"x"
    assert list_labelled(str(tmp_path), STORAGE, Counter())["label"].to_pylist() == ["n0"]


def test_globs_choose_images(tmp_path: Path) -> None:
    touch(
        tmp_path, "a/1.jpg", "a/2.JPG", "a/b/100%_x.jpg", "a/b/100y_x.jpg", "c/[1].jpg", "c/d.png"
    )

    def chosen(include: list[str], exclude: list[str]) -> set[str]:
        skipped: Counter[str] = Counter()
        tables = list(list_images(str(tmp_path), STORAGE, skipped, include, exclude))
        uris = {uri for table in tables for uri in table["uri"].to_pylist()}
        assert skipped["excluded"] == 6 - len(uris)
        return {uri.removeprefix(f"{tmp_path}/") for uri in uris}

    assert chosen(["*.jpg"], ["a/*"]) == {"c/[1].jpg"}
    assert chosen(["a/*"], []) == {"a/1.jpg", "a/2.JPG", "a/b/100%_x.jpg", "a/b/100y_x.jpg"}
    assert chosen(["*100%_x*", "c/?.png"], []) == {"a/b/100%_x.jpg", "c/d.png"}
    assert chosen([], ["*"]) == set()


def test_names_are_kept_as_they_are(tmp_path: Path) -> None:
    names = ["a b.jpg", "100%.jpg", "x#1?.jpg", "p+q.jpg", 'it\'s "q".jpg', "l\nf.jpg", "ü日.jpg"]
    touch(tmp_path, *names)
    (table,) = list_images(str(tmp_path), STORAGE, Counter())
    assert set(table["uri"].to_pylist()) == {str(tmp_path / name) for name in names}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_manifests(tmp_path: Path, kind: str) -> None:
    columns = {
        "uri": ["in/a.jpg", "/abs/b.jpg", "s3://bucket/c 100%.jpg", "../d.jpg", "in/a.jpg"],
        "label": ["x", "y", "x", "y", "x"],
        "camera": ["1", "2", "3", "4", "1"],
    }
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        rows = [",".join(row) for row in zip(*columns.values(), strict=True)]
        path.write_text("\n".join([",".join(columns), *rows]))
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na,b\n", "no column 'uri', only path, label"),
        ("uri,name\na,b\n", "no column 'label'"),
        ("uri,label\na,b\na,c\n", "two labels"),
        ("uri,label\na,\n", "1 rows with no label"),
        ("uri,label\n,b\n", "1 rows with no uri"),
        ("uri,label,split\na,b,holdout\n", "split 'holdout'"),
    ],
)
def test_bad_manifests_are_explained(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        list_labelled(str(tmp_path / "list.csv"), STORAGE, Counter())


def test_no_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        list_labelled(str(tmp_path), STORAGE, Counter())
    touch(tmp_path, "a.jpg")
    with pytest.raises(InputError, match="no sub-folders"):
        list_labelled(str(tmp_path), STORAGE, Counter())


def test_label_names(tmp_path: Path) -> None:
    kaggle = (
        "Label, Latin Name          , Common Name                   , Train Images\n"
        "n0   , alouatta_palliata\t      , mantled_howler                , 131\n"
    )
    (tmp_path / "monkey_labels.txt").write_text(kaggle)
    (tmp_path / "two.csv").write_text("id,word\nn0,howler\n")
    pq.write_table(pa.table({"name": ["howler"], "label": ["n0"]}), tmp_path / "t.parquet")
    names = {path.name: read_label_names(str(path), STORAGE) for path in tmp_path.iterdir()}
    assert names == {
        "monkey_labels.txt": {"n0": "mantled_howler"},
        "two.csv": {"n0": "howler"},
        "t.parquet": {"n0": "howler"},
    }
