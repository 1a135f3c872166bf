"""Folders, prefixes and manifests; labels and their names."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import InputError
from monkeyray.images.listing import list_images, list_labelled, read_label_names
from monkeyray.storage.store import Storage

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


def test_folders_that_are_no_text(tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match=r"label 'caf\\udce9' .* is no UTF-8"):
        list_labelled(str(tmp_path), STORAGE, Counter())


def test_parts_are_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "in/training/a/1.jpg", "in/training/b/1.jpg", "in/Test/a/2.jpg")
    with pytest.raises(InputError, match="look like splits") as caught:
        list_labelled(str(tmp_path), STORAGE, Counter())
    give = f"give --images {tmp_path}/in/training --test {tmp_path}/in/Test"
    assert str(caught.value).endswith(give)
    touch(tmp_path, "in/other/a/1.jpg")
    labels = list_labelled(str(tmp_path), STORAGE, Counter())["label"].to_pylist()
    assert labels == ["Test", "other", "training", "training"]


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


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_blank_group_is_none(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        path.write_text('uri,label,group\na,x,\nb,x,"  "\nc,x,3\nd,x,""\n')
    else:
        # As pandas writes a column of whole numbers in which some are missing.
        group = pa.array([None, float("nan"), 3.0, float("nan")], pa.float64())
        pq.write_table(pa.table({"uri": list("abcd"), "label": ["x"] * 4, "group": group}), path)
    table = list_labelled(str(path), STORAGE, Counter())
    assert table["group"].to_pylist() == [None, None, "3", None]


def test_a_label_that_is_no_number_is_missing(tmp_path: Path) -> None:
    table = pa.table({"uri": ["a", "b"], "label": [1.0, float("nan")]})
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(InputError, match="1 rows with no label"):
        list_labelled(str(tmp_path / "list.parquet"), STORAGE, Counter())


def manifest(path: Path, *uris: str) -> list[str]:
    """What a manifest with these URIs lists."""
    pq.write_table(pa.table({"uri": list(uris)}), path)
    tables = list_images(str(path), STORAGE, Counter())
    return [uri for table in tables for uri in table["uri"].to_pylist()]


def test_columns_with_names_of_ours_are_kept(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri,size_bytes,version,input_version\na,1,2,3\n")
    (table,) = list_images(str(tmp_path / "list.csv"), STORAGE, Counter())
    assert table.to_pylist() == [
        {
            "uri": f"{tmp_path}/a",
            "size_bytes": None,
            "version": None,
            "input_size_bytes": "1",
            "input_input_version": "2",
            "input_version": "3",
        }
    ]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3:/bucket/a.jpg", "malformed URIs, the first is 's3:/bucket/a.jpg': write a path"),
        ("s3://bucket", "malformed"),
        ("s3://bucket/", "malformed"),
        ("s3:///a.jpg", "malformed"),
        ("s3://buck et/a.jpg", "malformed"),
        ("S3://b/a.jpg", "malformed"),
        ("gs://bucket", "malformed"),
        ("gs:///a.jpg", "malformed"),
        ("file://host/a.jpg", "three slashes"),
        ("s3://me:hunter2@bucket/a.jpg", r"'s3://\*\*\*@bucket/a.jpg': it carries credentials"),
        ("file://me:hunter2@host/a.jpg", "credentials"),
        ("nonsense://bucket/a.jpg", "cannot open"),
    ],
)
def test_malformed_uris_in_manifests_are_found_at_once(
    tmp_path: Path, uri: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        manifest(tmp_path / "list.parquet", "a.jpg", "s3://bucket/b.jpg", uri)
    assert "list.parquet has " in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_uris_in_manifests_keep_their_names(tmp_path: Path) -> None:
    no_text = f"file://{tmp_path}/caf%E9%20100%25.jpg"
    given = {
        no_text: no_text,
        f"file://{tmp_path}/a%20b.jpg": f"{tmp_path}/a b.jpg",
        "FILE:///a.jpg": "/a.jpg",
        "a/../b.jpg": f"{tmp_path}/b.jpg",
        "./c:/d.jpg": f"{tmp_path}/c:/d.jpg",
        "s3://bucket/a/./b//c/../d.jpg": "s3://bucket/a/./b//c/../d.jpg",
        "s3://bucket/l\nf@.jpg": "s3://bucket/l\nf@.jpg",
        "memory://a.jpg": "memory://a.jpg",
    }
    assert manifest(tmp_path / "list.parquet", *given) == list(given.values())


def test_relative_uris_of_a_manifest_in_a_store(tmp_path: Path) -> None:
    from monkeyray.images.listing import _full_uris

    written = pa.chunked_array([["a//b.jpg", "../c.jpg", "./d.jpg"]])
    full = _full_uris("s3://bucket/lists/list.csv", written, STORAGE, set())
    assert full.to_pylist() == [
        "s3://bucket/lists/a//b.jpg", "s3://bucket/c.jpg", "s3://bucket/lists/d.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["uri", "label"])
def test_columns_that_are_no_text_are_explained(tmp_path: Path, column: str) -> None:
    columns: dict[str, object] = {"uri": ["a"], "label": ["b"], column: [["a"]]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=rf"column '{column}' \(list.* that is no text"):
        list_labelled(str(tmp_path / "list.parquet"), STORAGE, Counter())
    # Other programs write what pyarrow would not.
    data = pa.py_buffer(b"\xff")
    offsets = pa.py_buffer(b"\0\0\0\0\1\0\0\0")
    columns[column] = pa.StringArray.from_buffers(1, offsets, data)
    pq.write_table(pa.table(columns), tmp_path / "bytes.parquet")
    with pytest.raises(InputError, match=rf"column '{column}' \(string\) that is no text"):
        list_labelled(str(tmp_path / "bytes.parquet"), STORAGE, Counter())


def test_bytes_that_are_no_manifest_are_explained(tmp_path: Path) -> None:
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["uri", "uri"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    good = (tmp_path / "twice.parquet").read_bytes()
    (tmp_path / "no.parquet").write_bytes(b"x" * 100)
    (tmp_path / "end.parquet").write_bytes(b"x" * 100 + good[-8:])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "latin.csv").write_bytes(b"uri\ncaf\xe9.jpg\n")
    (tmp_path / "ragged.csv").write_bytes(b"uri\na,b\n")
    (tmp_path / "long.csv").write_bytes(b"u" * 200_000)
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=f"manifest {path}"):
            list(list_images(str(path), STORAGE, Counter()))
    place = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")
    Path(place).write_text("uri\na\n")
    with pytest.raises(InputError, match=r"udcff\.csv' is no UTF-8"):
        list(list_images(place, STORAGE, Counter()))


def test_globs_on_a_manifest_with_no_rows(tmp_path: Path) -> None:
    for name in ("list.csv", "list.parquet"):
        if name == "list.csv":
            (tmp_path / name).write_text("uri\n")
        else:
            pq.write_table(pa.table({"uri": pa.array([], pa.string())}), tmp_path / name)
        skipped: Counter[str] = Counter()
        tables = list_images(str(tmp_path / name), STORAGE, skipped, ["*.jpg"])
        assert sum(table.num_rows for table in tables) == 0
        assert not +skipped


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("uri,uri\na,b\n", "two columns 'uri'"),
        ("uri,label,label\na,b,c\n", "two columns 'label'"),
        ("path,label\na,b\n", "no column 'uri', only path, label"),
        ("uri,name\na,b\n", "no column 'label', only uri, name$"),
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


def test_what_are_no_label_names_is_explained(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"x" * 100)
    (tmp_path / "one.csv").write_text("label\nn0\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "long.csv").write_text('"' + "x" * 200_000)
    (tmp_path / "folder").mkdir()
    for name in ("no.parquet", "one.csv", "empty.csv", "long.csv", "folder", "missing.csv"):
        with pytest.raises(InputError, match=f"--label-names {tmp_path / name}"):
            read_label_names(str(tmp_path / name), STORAGE)
