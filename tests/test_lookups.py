"""The documented SQL on real predictions, and Parquet as engines like it."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.exports.events.tables import events
from monkeyray.exports.options import EventsConfig
from monkeyray.images.listing import VIDEOS
from monkeyray.runs.run import to_parquet
from tests.support.predicted import predict, scored

PAGES = Path(__file__).parent.parent / "docs" / "pages"


def queries(page: str, names: dict[str, str]) -> list[str]:
    """The page's statements, with these names in the place of those written."""
    text = "\n".join(re.findall(r"```sql\n(.*?)```", (PAGES / page).read_text(), re.DOTALL))
    for written, meant in names.items():
        assert f"'{written}'" in text
        text = text.replace(f"'{written}'", f"'{meant}'")
    return [query for query in text.split(";") if query.strip()]


def test_documented_queries(embedded: Path, tmp_path: Path) -> None:
    rows = pa.concat_tables([pq.read_table(path) for path in sorted(embedded.glob("*.parquet"))])
    scored = [row for row in rows.to_pylist() if row["label"] is not None]
    (tmp_path / "sites.csv").write_text("site,habitat\nn0,forest\nn5,forest\nn9,savanna\n")
    it = next(row for row in scored if row["uri"].split("/")[-2] == "n9")
    names = {
        "out/*.parquet": f"{embedded}/*.parquet",
        "sites.csv": str(tmp_path / "sites.csv"),
        "s3://bucket/season-3/A/IMG_0042.JPG": it["uri"],
    }
    counts, unsure, habitats, like, videos = (
        duckdb.sql(query).fetchall() for query in queries("look-up.md", names)
    )
    assert sum(row[1] for row in counts) == len(scored) == 42
    assert videos == []
    lowest = sorted(scored, key=lambda row: row["score"])
    assert [row[2] for row in unsure] == [row["score"] for row in lowest]
    assert (unsure[0][3], unsure[0][4]) == (
        lowest[0]["top_k"][1]["label"],
        lowest[0]["top_k"][1]["score"],
    )
    sure = [row for row in scored if row["decision"] == "accepted" or row["score"] > 0.9]
    assert {row[0] for row in habitats} == {"forest", "savanna"}
    assert sum(row[2] for row in habitats) == len(sure)
    others = [row for row in scored if row["uri"] != it["uri"]]
    features = np.array([row["embedding"] for row in others], np.float64)
    mine = np.array(it["embedding"], np.float64)
    cosines = features @ mine / np.linalg.norm(features, axis=1) / np.linalg.norm(mine)
    assert len(like) == 20
    assert like[0][0] == others[int(cosines.argmax())]["uri"]
    np.testing.assert_allclose([row[2] for row in like], np.sort(cosines)[::-1][:20], atol=1e-5)


def test_videos_are_listed(tmp_path: Path) -> None:
    row = {"status": "unsupported", "error": "not an image: a video"}
    names = ["a.MP4", "b.jpg", "c.mov", "mp4.jpg", "d.mpg", *(f"e{ending}" for ending in VIDEOS)]
    predict(tmp_path / "out", [{"uri": f"/x/{name}", **row} for name in names], images="/x")
    out = {"out/*.parquet": f"{tmp_path}/out/*.parquet"}
    (query,) = (text for text in queries("look-up.md", out) if "mp4" in text)
    found = duckdb.sql(query).fetchall()
    videos = [name for name in names if not name.endswith(".jpg")]
    assert found == [(f"/x/{name}", *row.values()) for name in sorted(videos)]


def test_documented_join_with_events(tmp_path: Path) -> None:
    rows = [
        scored(f"/photos/A/C1/{name}.jpg", ("fox", 0.75), ("hare", 0.25),
               captured_at="2021-05-31T08:00:00")
        for name in "abc"
    ]  # fmt: skip
    predict(tmp_path / "out", rows, images="/photos")
    written = tmp_path / "events"
    events(
        EventsConfig(
            predictions=str(tmp_path / "out"), output=str(written), site_pattern="{site}/{camera}/*"
        )
    )
    tables = ("rows", "events")
    names = {f"events/{name}.parquet": f"{written}/{name}.parquet" for name in tables}
    (query,) = queries("events.md", {"out/*.parquet": f"{tmp_path}/out/*.parquet", **names})
    joined = duckdb.sql(query)
    assert {"label", "event_id", "pooled_label", "count"} <= set(joined.columns)
    assert joined.shape[0] == 3


@pytest.mark.parametrize(("rows", "groups"), [(5, 1), (70_000, 3)])
def test_files_have_a_page_index_and_groups_that_fit_into_memory(rows: int, groups: int) -> None:
    numbers = pa.array(np.arange(rows))
    table = pa.table(
        {
            "uri": numbers.cast(pa.string()),
            "score": numbers,
            "embedding": pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float32())),
        }
    )
    data = to_parquet(table)
    file = pq.ParquetFile(pa.BufferReader(data)).metadata
    assert (file.num_rows, file.num_row_groups) == (rows, groups)
    for number in range(groups):
        group = file.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            assert column.has_offset_index
            assert column.has_column_index
            assert column.is_stats_set
            assert column.compression == "ZSTD"
    # A finished file keeps its bytes, however the table came to be.
    pieces = pa.concat_tables([table.slice(0, rows // 3), table.slice(rows // 3)])
    assert to_parquet(table) == to_parquet(pieces) == data
