"""The names that people read for labels."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import InputError
from monkeyray.labels.names import read_label_names
from monkeyray.storage.store import Storage

STORAGE = Storage()


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


def test_other_tables_are_not_label_names(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_bytes(b"x" * 100)
    (tmp_path / "one.csv").write_text("label\nn0\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "long.csv").write_text('"' + "x" * 200_000)
    (tmp_path / "folder").mkdir()
    for name in ("no.parquet", "one.csv", "empty.csv", "long.csv", "folder", "missing.csv"):
        with pytest.raises(InputError, match=f"--label-names {tmp_path / name}"):
            read_label_names(str(tmp_path / name), STORAGE)
