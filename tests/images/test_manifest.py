"""Manifests: URIs and columns out of any table."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from datetime import datetime
from pathlib import Path
from unicodedata import normalize

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from monkeyray.errors import InputError
from monkeyray.images.decode import Limits
from monkeyray.images.listing import list_images
from monkeyray.images.manifest import BACKSLASHES, BLANKS, DRIVES
from monkeyray.labels.listing import list_labelled
from monkeyray.runs.workers.batches import batches
from monkeyray.runs.workers.fetch import Refusals
from monkeyray.scoring.schema import prediction_schema
from monkeyray.storage.keys import OTHER_FORM
from monkeyray.storage.store import Storage
from tests.support.files import touch

STORAGE = Storage()


def manifest(path: Path, *uris: str) -> list[str]:
    """What a manifest with these URIs lists."""
    pq.write_table(pa.table({"uri": list(uris)}), path)
    tables = list_images(str(path), STORAGE, Counter())
    return [uri for table in tables for uri in table["uri"].to_pylist()]


def test_columns_with_reserved_names_are_renamed(tmp_path: Path) -> None:
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


def test_times_of_a_manifest_count_before_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2021:05:31 08:25:38"
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    lines = ["a.jpg,2019-01-05 07:03:02 PM", "b.jpg,2019:01:05 19:03:02+0200", "./a.jpg,NA"]
    (tmp_path / "list.csv").write_text("\n".join(["uri,captured_at", *lines]))
    (plan,) = list_images(str(tmp_path / "list.csv"), STORAGE, Counter())
    (batch,) = batches(plan, STORAGE, Limits(), batch_size=9, threads=1,
                       refusals=Refusals(STORAGE, 9))  # fmt: skip
    columns, *_ = batch.decode(32, Limits())
    times = ["2019-01-05T19:03:02", "2019-01-05T19:03:02+02:00", "2021-05-31T08:25:38"]
    assert columns["captured_at"] == times
    assert prediction_schema(plan.schema).names.count("captured_at") == 1
    assert "input_captured_at" not in prediction_schema(plan.schema).names
    moments = pa.array([datetime(2019, 1, 5, 19, 3, 2)], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"uri": ["a.jpg"], "captured_at": moments}), tmp_path / "list.parquet")
    (plan,) = list_images(str(tmp_path / "list.parquet"), STORAGE, Counter())
    assert plan["captured_at"].to_pylist() == ["2019-01-05T19:03:02+00:00"]
    (tmp_path / "list.csv").write_text("uri,captured_at\na.jpg,noon\n")
    with pytest.raises(InputError, match=r"captured_at of manifest .* has 'noon', which is not a"):
        list(list_images(str(tmp_path / "list.csv"), STORAGE, Counter()))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3:/bucket/a.jpg", "1 malformed URI, the first is 's3:/bucket/a.jpg': write a path"),
        ("s3://bucket", "malformed"),
        ("s3://bucket/", "malformed"),
        ("s3:///a.jpg", "malformed"),
        ("s3://buck et/a.jpg", "malformed"),
        ("S3://b/a.jpg", "malformed"),
        ("gs://bucket", "malformed"),
        ("gs:///a.jpg", "malformed"),
        ("file://host/a.jpg", "three slashes"),
        ("s3://me:hunter2@bucket/a.jpg", r"'s3://\*\*\*@bucket/a.jpg': it contains credentials"),
        ("file://me:hunter2@host/a.jpg", "credentials"),
        ("nonsense://bucket/a.jpg", "cannot open"),
        (
            r"D:\cards\a.jpg",
            "open Windows drives and shares, and .* below the manifest's folder: write paths",
        ),
        ("d:/cards/a.jpg", "Windows drives"),
        (r"\\server\cards\a.jpg", "Windows drives"),
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
    not_utf8 = f"file://{tmp_path}/caf%E9%20100%25.jpg"
    given = {
        not_utf8: not_utf8,
        f"file://{tmp_path}/a%20b.jpg": f"{tmp_path}/a b.jpg",
        "FILE:///a.jpg": "/a.jpg",
        "a/../b.jpg": f"{tmp_path}/b.jpg",
        "./c:/d.jpg": f"{tmp_path}/c:/d.jpg",
        "s3://bucket/a/./b//c/../d.jpg": "s3://bucket/a/./b//c/../d.jpg",
        "s3://bucket/l\nf@.jpg": "s3://bucket/l\nf@.jpg",
        "memory://a.jpg": "memory://a.jpg",
    }
    assert manifest(tmp_path / "list.parquet", *given) == list(given.values())


def test_paths_of_windows_and_blanks_in_manifests(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "uri\nimgs\\site1\\x.jpg\n s3://bucket/a\\b.jpg \n.\\y.jpg\n/z\\z.jpg\n"
    )
    notes: Counter[str] = Counter()
    (table,) = list_images(str(tmp_path / "list.csv"), STORAGE, notes)
    assert table["uri"].to_pylist() == [
        f"{tmp_path}/imgs/site1/x.jpg", r"s3://bucket/a\b.jpg", f"{tmp_path}/y.jpg", r"/z\z.jpg",
    ]  # fmt: skip
    assert notes == {BACKSLASHES: 2, BLANKS: 1}


@pytest.mark.parametrize("there", ["D:\\season\\", "d:/", "\\\\server\\cards\\season 1\\"])
def test_paths_with_a_drive_are_found_below_the_manifest(tmp_path: Path, there: str) -> None:
    touch(tmp_path, "site1/x.jpg", "site2/cards/x.jpg")
    names = ["site0/gone.jpg", "site1\\x.jpg", "site2\\cards\\x.jpg", "site1\\gone.jpg"]
    uris = [*(f"{there}{name}" for name in names), "site1/x.jpg"]
    (tmp_path / "list.csv").write_text("\n".join(["uri", *uris]))
    notes: Counter[str] = Counter()
    (table,) = list_images(str(tmp_path / "list.csv"), STORAGE, notes)
    found = ["site0/gone.jpg", "site1/x.jpg", "site2/cards/x.jpg", "site1/gone.jpg", "site1/x.jpg"]
    assert table["uri"].to_pylist() == [f"{tmp_path}/{name}" for name in found]
    assert +notes == {DRIVES: 4}
    (tmp_path / "list.csv").write_text("\n".join(["uri", *uris, r"E:\other\x.jpg"]))
    with pytest.raises(InputError, match=r"has 1 malformed URI, the first is 'E:\\\\other"):
        list(list_images(str(tmp_path / "list.csv"), STORAGE, Counter()))


def test_local_paths_are_found_in_either_unicode_form(tmp_path: Path) -> None:
    # As a zip from a Mac below a folder that was made here.
    on_disk = ["\u00c9/e\u0301/1.jpg", "\u00c9/e\u0301/o\u0308.jpg", "\u00c9/\u00e9.jpg"]
    touch(tmp_path, *on_disk)
    gone = ["\u00c9/\u00e9/2.jpg", "\u00f6/1.jpg"]
    written = [normalize("NFC", name) for name in on_disk] + gone
    pq.write_table(pa.table({"uri": written}), tmp_path / "list.parquet")
    notes: Counter[str] = Counter()
    (table,) = list_images(str(tmp_path / "list.parquet"), STORAGE, notes)
    right = [*on_disk, "\u00c9/e\u0301/2.jpg", "\u00f6/1.jpg"]
    assert table["uri"].to_pylist() == [f"{tmp_path}/{name}" for name in right]
    assert +notes == {OTHER_FORM: 3}


def test_a_folder_of_parquet_files_is_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").mkdir()
    for number in range(2):
        table = pa.table({"uri": [f"{number}.jpg"]})
        pq.write_table(table, tmp_path / "list.parquet" / f"part-{number}.parquet")
    tables = list_images(str(tmp_path / "list.parquet"), STORAGE, Counter())
    uris = [uri for table in tables for uri in table["uri"].to_pylist()]
    assert uris == [f"{tmp_path}/0.jpg", f"{tmp_path}/1.jpg"]


def test_relative_uris_of_a_manifest_in_a_store(s3: Storage) -> None:
    written = ["a//b.jpg", "../c.jpg", "./d.jpg"]
    text = "\n".join(["uri", *written]).encode()
    part = pa.BufferOutputStream()
    pq.write_table(pa.table({"uri": written}), part)
    s3.write("s3://photos/lists/list.csv", text)
    s3.write("s3://photos/lists/list.csv.gz", gzip.compress(text))
    s3.write("s3://photos/lists/list.parquet/part-0.parquet", part.getvalue().to_pybytes())
    for name in ("list.csv", "list.csv.gz", "list.parquet"):
        (table,) = list_images(f"s3://photos/lists/{name}", s3, Counter())
        assert table["uri"].to_pylist() == [
            "s3://photos/lists/a//b.jpg", "s3://photos/c.jpg", "s3://photos/lists/d.jpg",
        ]  # fmt: skip


@pytest.mark.parametrize("column", ["uri", "label"])
def test_columns_that_are_not_text_are_refused(tmp_path: Path, column: str) -> None:
    columns: dict[str, object] = {"uri": ["a"], "label": ["b"], column: [["a"]]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=rf"column '{column}' \(list.* that is not text"):
        list_labelled(str(tmp_path / "list.parquet"), STORAGE, Counter())
    # Other programs write what pyarrow would not.
    data = pa.py_buffer(b"\xff")
    offsets = pa.py_buffer(b"\0\0\0\0\1\0\0\0")
    columns[column] = pa.StringArray.from_buffers(1, offsets, data)
    pq.write_table(pa.table(columns), tmp_path / "bytes.parquet")
    with pytest.raises(InputError, match=rf"column '{column}' \(string\) that is not text"):
        list_labelled(str(tmp_path / "bytes.parquet"), STORAGE, Counter())


def test_files_that_are_not_manifests_are_refused(tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match=r"%FF\.csv is not UTF-8"):
        list(list_images(place, STORAGE, Counter()))


def test_globs_on_an_empty_manifest(tmp_path: Path) -> None:
    for name in ("list.csv", "list.parquet"):
        if name == "list.csv":
            (tmp_path / name).write_text("uri\n")
        else:
            pq.write_table(pa.table({"uri": pa.array([], pa.string())}), tmp_path / name)
        skipped: Counter[str] = Counter()
        tables = list_images(str(tmp_path / name), STORAGE, skipped, ["*.jpg"])
        assert sum(table.num_rows for table in tables) == 0
        assert not +skipped
