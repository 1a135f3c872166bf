"""Tables that people keep."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import InputError
from monkeyray.storage.store import Storage
from monkeyray.storage.tables import read_rows


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
