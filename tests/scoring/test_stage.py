"""Scoring as a stage of your own Ray Data pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.data

import monkeyray
from monkeyray.errors import InputError
from monkeyray.scoring.schema import COLUMNS
from monkeyray.training.summary import Trained
from tests.support.predicted import assert_scored_alike

EXACT = ("status", "error", "label", "decision", "width", "height", "captured_at", "sha256")


@pytest.fixture(scope="module")
def rows(embedded: Path) -> dict[str, dict[str, Any]]:
    """What `score` says of the photographs and two broken files, by URI."""
    table = pq.read_table(sorted(embedded.glob("*.parquet")))
    return {row["uri"]: row for row in table.to_pylist()}


@pytest.fixture(scope="module")
def scorer(trained: Trained) -> monkeyray.Scorer:
    return monkeyray.Scorer(trained.uri)


def assert_alike(found: dict[str, Any], row: dict[str, Any]) -> None:
    assert {name: found[name] for name in EXACT} == {name: row[name] for name in EXACT}
    assert_scored_alike(found, row)


def test_a_pipeline_writes_what_score_writes(
    embedded: Path, trained: Trained, rows: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    images = ray.data.read_binary_files(str(embedded.parent / "images"), include_paths=True)
    made = images.map_batches(
        monkeyray.Scorer,
        fn_constructor_args=[trained.uri],
        batch_format="pyarrow",
        batch_size=16,
        num_cpus=1,
        concurrency=1,
    )
    made.write_parquet(str(tmp_path / "out"))
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == [name for name, *_ in COLUMNS]
    assert len(table) == len(rows) == 44
    for row in table.to_pylist():
        assert_alike(row, rows[row["uri"]])
    assert sorted(set(table["status"].to_pylist())) == ["empty", "ok", "unsupported"]


def test_a_batch_of_uris_keeps_its_other_columns(
    scorer: monkeyray.Scorer, rows: dict[str, dict[str, Any]], trained: Trained, tmp_path: Path
) -> None:
    uris = [*list(rows)[1:3], str(tmp_path / "none.jpg")]
    batch = {"uri": uris, "site": ["a", "b", "c"], "label": ["x"] * 3, "version": [1, 2, 3]}
    table = scorer(pa.table(batch))
    assert table.column_names[-3:] == ["site", "input_label", "input_version"]
    assert table["status"].to_pylist()[2] == "missing"
    assert table["input_version"].to_pylist() == [1, 2, 3]
    for found in table.to_pylist()[:2]:
        assert_alike(found, rows[found["uri"]])
        assert found["etag_or_mtime"] == rows[found["uri"]]["etag_or_mtime"]
    embeddings = monkeyray.Scorer(trained.uri, embeddings=True, top_k=1)
    one = embeddings(pa.table({"bytes": [Path(uris[0]).read_bytes(), None]}))
    assert one["status"].to_pylist() == ["ok", "missing"]
    assert one["uri"].null_count == 2
    assert len(one["top_k"][0]) == 1
    assert len(one["embedding"][0]) == 1024
    nothing = scorer(pa.table({"path": pa.array([], pa.string())}))
    assert (len(nothing), nothing.schema.names) == (0, [name for name, *_ in COLUMNS])


def test_batches_without_images_say_what_to_give(scorer: monkeyray.Scorer) -> None:
    with pytest.raises(InputError, match=r"columns a, b: it needs one called bytes"):
        scorer(pa.table({"a": [1], "b": [2]}))
    with pytest.raises(InputError, match='is a dict: give map_batches batch_format="pyarrow"'):
        scorer({"bytes": [b""]})
