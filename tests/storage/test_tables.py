"""Tables that people keep."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import InputError
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import is_table, read_rows, stream_table


def read(path: Path, text: str | bytes) -> list[dict[str, str]]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rows(str(path), Storage(), "deployments")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_of_any_spreadsheet(tmp_path: Path, delimiter: str) -> None:
    lines = [["Deployment ID", "site"], ["a", ' "x,y" '], ["", ""], ["b"]]
    text = "\ufeff" + "\r\n".join(
        delimiter.join(f'"{cell.strip().strip(chr(34))}"' if cell else "" for cell in line)
        for line in lines
    )
    assert read(tmp_path / "t.csv", text) == [
        {"deploymentid": "a", "site": "x,y"},
        {"deploymentid": "b", "site": ""},
    ]


def test_parquet_values_are_text(tmp_path: Path) -> None:
    table = pa.table(
        {
            "Latitude": pa.array([51.5, float("nan")]),
            "cameraDelay": pa.array([120.0, None]),
            "baitUse": pa.array([True, None]),
            "start": pa.array([datetime(2021, 5, 31, 8), None], pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    first, second = read_rows(str(tmp_path / "t.parquet"), Storage(), "deployments")
    assert first == {
        "latitude": "51.5",
        "cameradelay": "120",
        "baituse": "true",
        "start": "2021-05-31T08:00:00+00:00",
    }
    assert set(second.values()) == {""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("a,b\n", "no rows"),
        ("a b,A_B\n1,2\n", "two columns 'ab'"),
        ("a,b\n1,2,3\n", "3 values for 2 columns in row 1"),
        (b"a,b\n\xff,2\n", "cannot be read"),
        ('a,b\n"1,2\n', "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=f"--deployments .*{message}"):
        read(tmp_path / "t.csv", text)


def test_missing_and_damaged_tables_are_refused(tmp_path: Path) -> None:
    for name in ("no.csv", "no.parquet"):
        with pytest.raises(InputError, match="does not exist"):
            read_rows(str(tmp_path / name), Storage(), "deployments")
    (tmp_path / "bad.parquet").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(str(tmp_path / "bad.parquet"), Storage(), "deployments")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("Unicode text.txt", "uri\tlabel\r\nÉ.jpg\tÉland\r\n".encode("utf-16")),
        ("big-endian.csv", b"\xfe\xff" + "uri,label\nÉ.jpg,Éland\n".encode("utf-16-be")),
        ("sep.csv", "\ufeffsep=;\r\nuri;label\r\nÉ.jpg;Éland\r\n".encode()),
        ("tab.csv", "sep=\t\nuri\tlabel\nÉ.jpg\tÉland\n".encode()),
        ("t.tsv", "uri\tlabel\nÉ.jpg\tÉland\n".encode()),
        ("t.csv.gz", gzip.compress("uri,label\nÉ.jpg,Éland\n".encode(), mtime=0)),
    ],
)
def test_csv_dialects(tmp_path: Path, name: str, data: bytes) -> None:
    right = {"uri": "É.jpg", "label": "Éland"}
    assert is_table(name)
    assert read(tmp_path / name, data) == [right]
    place = Location.parse(str(tmp_path / name))
    assert pa.concat_tables(stream_table(place, Storage(), "manifest")).to_pylist() == [right]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (
            "t.xlsx",
            b"PK\x03\x04\x14\0",
            "is an Excel .*: give a CSV in UTF-8 .in Excel, save as CSV",
        ),
        ("renamed.csv", b"PK\x03\x04\x14\0", "is an Excel"),
        (
            "ansi.csv",
            "uri,label\né,Éland\n".encode("cp1252"),
            "perhaps in Windows-1252",
        ),
        ("header.csv", "uri,É\na,b\n".encode("cp1252"), "perhaps in Windows-1252"),
        ("t.csv.zip", b"PK\x03\x04\x14\0", "a zip archive"),
        ("t.json", b'[{"uri": "a.jpg"}]', "is JSON"),
        ("bare.csv", "uri,label\n".encode("utf-16-le"), "is not text"),
        ("cut.csv.gz", gzip.compress(b"uri,label\n" * 99, mtime=0)[:30], "cannot be read"),
    ],
)
def test_other_formats_are_refused_by_name(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    assert is_table(name)
    with pytest.raises(InputError, match=words):
        read(tmp_path / name, data)
    with pytest.raises(InputError, match=words):
        list(stream_table(Location.parse(str(tmp_path / name)), Storage(), "manifest"))


def test_missing_values_of_r_and_pandas_are_empty(tmp_path: Path) -> None:
    text = "a,b,c,d,e\nNA,NaN,null,<NA>,Nasua\n"
    right = {"a": "", "b": "", "c": "", "d": "", "e": "Nasua"}
    assert read(tmp_path / "t.csv", text) == [right]


def test_a_folder_of_parquet_files_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "list.parquet"
    for name in ("part-1.parquet", "part-0.snappy.parquet", "_temporary/0.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"a": [name]}), folder / name)
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.snappy.parquet.crc").touch()
    right = [{"a": "part-0.snappy.parquet"}, {"a": "part-1.parquet"}]
    assert read_rows(str(folder), Storage(), "taxonomy") == right
    pq.write_table(pa.table({"b": [1]}), folder / "part-2.parquet")
    with pytest.raises(InputError, match="has different columns"):
        read_rows(str(folder), Storage(), "taxonomy")
    (tmp_path / "by.parquet" / "split=test").mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "by.parquet" / "split=test" / "0.parquet")
    with pytest.raises(InputError, match=r"partitioned by a column .split=test/0"):
        read_rows(str(tmp_path / "by.parquet"), Storage(), "taxonomy")
