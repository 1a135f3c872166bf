"""Plans, parts, identity and the final count."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import RunError
from monkeyray.runs import Run, create_run, cut, open_run
from monkeyray.storage import Storage

STORAGE = Storage()
PLAN = pa.table({"uri": [f"/x/{i}.jpg" for i in range(50)]})


@given(st.integers(0, 10**6), st.integers(1, 64), st.integers(64, 10_000))
def test_parts_cover_the_plan(rows: int, workers: int, most: int) -> None:
    sizes = cut(rows, workers, most)
    assert sum(sizes) == rows
    assert all(0 < size <= most for size in sizes)
    assert sizes == sorted(sizes, reverse=True)


def make(place: Path, sizes: list[int] | None = None) -> Run:
    return create_run(str(place), STORAGE, {"model_id": "a"}, PLAN, sizes or [2] * 25)


def rows(run: Run, part: int) -> pa.Table:
    plan = run.read_plan(part)
    return plan.append_column("status", pa.array(["ok"] * plan.num_rows))


def test_a_run_is_read_back_and_finished(tmp_path: Path) -> None:
    made = make(tmp_path)
    run = open_run(str(tmp_path), STORAGE, {"model_id": "a"})
    assert run is not None
    assert run.sizes == made.sizes
    assert pa.concat_tables(run.read_plan(part) for part in range(25)).equals(PLAN)
    for part in range(24):
        run.write_part(part, rows(run, part))
    assert run.pending() == [24]
    with pytest.raises(RunError, match="48 rows for 50"):
        run.finish()
    assert not (tmp_path / "_SUCCESS").exists()
    run.write_part(24, rows(run, 24))
    assert run.finish()["status"] == {"ok": 50}
    assert json.loads((tmp_path / "_SUCCESS").read_text())["planned"] == 50
    parquet = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")}
    assert parquet == {f"part-{part:05d}.parquet" for part in range(25)}


def test_a_part_with_lost_rows_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path)
    with pytest.raises(RunError, match="1 rows for 2"):
        run.write_part(0, rows(run, 0).slice(1))
    assert run.pending() == list(range(25))


def test_another_run_is_refused_and_named(tmp_path: Path) -> None:
    assert open_run(str(tmp_path / "new"), STORAGE, {}) is None
    make(tmp_path / "run")
    with pytest.raises(RunError, match="model_id is 'b', was 'a'"):
        open_run(str(tmp_path / "run"), STORAGE, {"model_id": "b"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.docx").touch()
    with pytest.raises(RunError, match=r"thesis\.docx"):
        open_run(str(tmp_path / "other"), STORAGE, {})
