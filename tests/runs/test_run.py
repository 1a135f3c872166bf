"""Parts, identity, what is made again, and the final count."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import ConflictError, LeaseError, RunError
from monkeyray.runs.lease import Lease, hold
from monkeyray.runs.plan import Listing, collect
from monkeyray.runs.run import Run, clear, create_run, open_run
from monkeyray.runs.update import COLUMNS, Changes, Listed, new_rows
from monkeyray.storage.store import Storage
from tests.support.predicted import predict, scored

STORAGE = Storage()
IDENTITY = {"model_id": "a"}


def listed(names: list[str], version: str = "1") -> Listing:
    rows = len(names)
    columns = {
        "uri": pa.array(names, pa.string()),
        "size_bytes": pa.array([3] * rows, pa.int64()),
        "version": pa.array([version] * rows, pa.string()),
    }
    listing = collect([pa.table(columns)])
    assert listing is not None
    return listing


NAMES = [f"/x/{i}.jpg" for i in range(50)]


def make(place: Path, lease: Lease) -> Run:
    return create_run(str(place), lease, IDENTITY, listed(NAMES), [2] * 25)


@pytest.fixture
def lease(tmp_path: Path) -> Iterator[Lease]:
    with hold(str(tmp_path), STORAGE, print) as lease:
        yield lease


def rows(plan: pa.Table, status: str = "ok", at: datetime | None = None) -> pa.Table:
    count = plan.num_rows
    columns = {
        "uri": plan["uri"],
        "status": [status] * count,
        "size_bytes": plan["size_bytes"],
        "etag_or_mtime": plan["version"],
        "predicted_at": pa.array([at or datetime.now(UTC)] * count, pa.timestamp("us", "UTC")),
    }
    return pa.table(columns)


def publish(run: Run, part: int, lease: Lease, status: str = "ok") -> None:
    plan = run.plan.read(part)
    run.publish(part, plan, rows(plan, status), lease)


def test_a_run_is_read_back_and_finished(tmp_path: Path, lease: Lease) -> None:
    made = make(tmp_path, lease)
    run = open_run(str(tmp_path), STORAGE, IDENTITY)
    assert run is not None
    assert (run.run_id, run.plan.sizes) == (made.run_id, made.plan.sizes)
    for part in range(24):
        publish(run, part, lease)
    assert run.pending() == {24: 2}
    with pytest.raises(RunError, match="48 rows for 50"):
        run.finish(lease)
    assert not (tmp_path / "_SUCCESS").exists()
    publish(run, 24, lease)
    assert run.finish(lease)["status"] == {"ok": 50}
    assert json.loads((tmp_path / "_SUCCESS").read_text())["planned"] == 50
    parquet = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")}
    assert parquet == {f"part-{part:05d}-{run.run_id}.parquet" for part in range(25)}


def test_rows_that_are_not_the_plans_are_refused(tmp_path: Path, lease: Lease) -> None:
    run = make(tmp_path, lease)
    plan = run.plan.read(0)
    for wrong in (rows(plan).slice(1), rows(plan).take([1, 0]), rows(run.plan.read(1))):
        with pytest.raises(RunError, match="bug"):
            run.publish(0, plan, wrong, lease)
    assert len(run.pending()) == 25


def test_a_part_that_is_made_twice_is_one_file(tmp_path: Path, lease: Lease) -> None:
    run = make(tmp_path, lease)
    publish(run, 0, lease)
    before = Path(run.part_uri(0)).read_bytes()
    publish(run, 0, lease, status="missing")
    assert Path(run.part_uri(0)).read_bytes() == before


def test_a_file_that_was_changed_is_found_at_the_end(tmp_path: Path, lease: Lease) -> None:
    run = make(tmp_path, lease)
    for part in range(25):
        publish(run, part, lease)
    pq.write_table(rows(run.plan.read(3)).slice(1), run.part_uri(3))
    with pytest.raises(RunError, match=r"part-00003-.* has 1 rows that are not its 2 images"):
        run.finish(lease)


def test_another_run_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "_config.toml").touch()
    assert open_run(str(tmp_path / "new"), STORAGE, {}) is None
    with hold(str(tmp_path / "run"), STORAGE, print) as lease:
        make(tmp_path / "run", lease)
    with pytest.raises(RunError, match="model_id is 'b', was 'a'"):
        open_run(str(tmp_path / "run"), STORAGE, {"model_id": "b"})
    (tmp_path / "run" / "_run.json").write_text('{"of": "another version"}')
    with pytest.raises(RunError, match="--overwrite"):
        open_run(str(tmp_path / "run"), STORAGE, IDENTITY)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.docx").touch()
    with pytest.raises(RunError, match=r"thesis\.docx"):
        open_run(str(tmp_path / "other"), STORAGE, {})


def test_a_process_of_an_overwritten_run_does_no_harm(tmp_path: Path) -> None:
    with hold(str(tmp_path), STORAGE, print) as old_lease:
        old = make(tmp_path, old_lease)
        publish(old, 0, old_lease)
        plan = old.plan.read(3)
    with hold(str(tmp_path), STORAGE, print) as lease:
        clear(str(tmp_path), lease)
        run = make(tmp_path, lease)
        with pytest.raises(LeaseError, match="taken over"):
            old.publish(3, plan, rows(plan), old_lease)
        # One that had looked at the lease before, and wrote after the take-over.
        STORAGE.create(old.part_uri(2), b"a forgotten process's")
        with pytest.raises(LeaseError):
            old.publish(3, plan, rows(plan), _BlinkingLease(old_lease))
        assert not Path(old.part_uri(3)).exists()
        for part in range(25):
            publish(run, part, lease)
        run.finish(lease)
    names = {path.name for path in tmp_path.glob("*.parquet")}
    assert names == {f"part-{part:05d}-{run.run_id}.parquet" for part in range(25)}


def test_a_driver_that_wakes_after_a_take_over_does_no_harm(tmp_path: Path) -> None:
    with hold(str(tmp_path), STORAGE, print) as old_lease:
        pass
    # Both saw an empty place; the other one was quicker, and the sleeper goes on where it was.
    with hold(str(tmp_path), STORAGE, print) as lease:
        run = make(tmp_path, lease)
        other = listed([f"/y/{i}.jpg" for i in range(40)])
        for sleeper in (old_lease, _BlinkingLease(old_lease)):
            with pytest.raises(LeaseError):
                create_run(str(tmp_path), sleeper, IDENTITY, other, [40])
        for part in range(25):
            publish(run, part, lease)
        with pytest.raises(LeaseError):
            run.update(old_lease, Changes(None, retry=True), COLUMNS)
        for sleeper in (old_lease, _BlinkingLease(old_lease)):
            with pytest.raises(LeaseError):
                run.finish(sleeper)
            assert not (tmp_path / "_SUCCESS").exists()
        assert run.finish(lease)["status"] == {"ok": 50}
    again = open_run(str(tmp_path), STORAGE, IDENTITY)
    assert again is not None
    assert again.pending() == {}


def test_overwriting_deletes_only_what_is_of_a_run(tmp_path: Path) -> None:
    with hold(str(tmp_path), STORAGE, print) as lease:
        run = make(tmp_path, lease)
        publish(run, 0, lease)
        (tmp_path / "_config.toml").touch()
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "photo.jpg").touch()
        with pytest.raises(RunError, match=r"deep/photo\.jpg"):
            clear(str(tmp_path), lease)
        assert Path(run.part_uri(0)).exists()
        (tmp_path / "deep" / "photo.jpg").unlink()
        clear(str(tmp_path), lease)
        assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"_lease.json"}


def test_a_second_update_forgets_nothing_of_the_first(tmp_path: Path, lease: Lease) -> None:
    run = make(tmp_path, lease)
    for part in range(25):
        publish(run, part, lease, "missing" if part == 7 else "ok")
    run = run.update(
        lease, Changes(Listed.of(listed([*NAMES[:5], *NAMES[5:]], "2")), False), COLUMNS
    )
    assert len(run.pending()) == 25
    run = run.update(lease, Changes(None, retry=True), COLUMNS)
    assert run.pending() == dict.fromkeys(range(25), 2)


class _BlinkingLease(Lease):
    """A lease whose place is taken over just after its first check."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease.place, lease.storage, lease.token)
        object.__setattr__(self, "checks", 0)

    def check(self) -> None:
        object.__setattr__(self, "checks", self.checks + 1)  # type: ignore[attr-defined]
        if self.checks > 1:  # type: ignore[attr-defined]
            super().check()


def test_failures_are_made_again_in_their_place(tmp_path: Path, lease: Lease) -> None:
    run = make(tmp_path, lease)
    for part in range(25):
        publish(run, part, lease, "missing" if part == 7 else "ok")
    run.finish(lease)
    files = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    changes = Changes(None, retry=True)
    run = run.update(lease, changes, COLUMNS)
    assert (changes.retried, changes.changed, changes.vanished) == (2, 0, 0)
    assert not (tmp_path / "_SUCCESS").exists()
    again = open_run(str(tmp_path), STORAGE, IDENTITY)
    assert again is not None
    assert again.redo == run.redo
    assert again.pending() == {7: 2}
    held = again.read_to_redo(7)
    assert held is not None
    table, version, redo = held
    assert redo.tolist() == [0, 1]
    plan = again.plan.read(7)
    later = again.redo.since if again.redo else None
    again.publish_again(7, plan, rows(plan, "ok", later), version, lease)
    assert again.pending() == {}
    with pytest.raises(ConflictError):  # a slow one that had read the old file
        again.publish_again(7, plan, table, version, lease)
    assert again.finish(lease)["status"] == {"ok": 50}
    for path, data in files.items():
        assert (path.read_bytes() == data) == ("part-00007" not in path.name)


def test_clocks_that_go_ahead_hide_nothing(tmp_path: Path, lease: Lease) -> None:
    run = make(tmp_path, lease)
    plan = run.plan.read(0)
    run.publish(0, plan, rows(plan, "timeout", datetime.now(UTC) + timedelta(hours=1)), lease)
    run = run.update(lease, Changes(None, retry=True), COLUMNS)
    assert run.pending()[0] == 2
    assert run.redo is not None
    assert run.redo.since > datetime.now(UTC) + timedelta(minutes=59)


def test_an_update_finds_what_is_new_changed_and_gone(tmp_path: Path, lease: Lease) -> None:
    run = make(tmp_path, lease)
    for part in range(20):
        publish(run, part, lease)
    now = pa.concat_tables(
        [
            pa.concat_tables(listed(NAMES[1:10] + NAMES[12:41]).tables()),
            pa.concat_tables(listed([NAMES[10], NAMES[45], "/x/new1", "/x/new2"], "2").tables()),
        ]
    )
    listing = collect([now])
    assert listing is not None
    new = listing.only(new_rows(run, listing))
    assert pa.concat_tables(new.tables())["uri"].to_pylist() == ["/x/new1", "/x/new2"]
    changes = Changes(Listed.of(listing), retry=False)
    run = run.update(lease, changes, COLUMNS, new, [1, 1])
    # 0 and 11, 41-44, 46-49 are gone; 10 has a row that is old, 45 has none yet.
    assert (changes.changed, changes.vanished) == (2, 10)
    pending = run.pending()
    assert pending == {5: 1, **dict.fromkeys(range(20, 25), 2), 25: 1, 26: 1}
    held = run.read_to_redo(5)
    assert held is not None
    assert held[2].tolist() == [0]
    assert run.plan.read(22)["version"].to_pylist() == ["1", None]
    assert run.rows == 52
    for part in pending:
        plan = run.plan.read(part)
        if part == 5:
            later = run.redo.since if run.redo else None
            run.publish_again(part, plan, rows(plan, "ok", later), held[1], lease)
        else:
            publish(run, part, lease)
    assert run.finish(lease)["status"] == {"ok": 52}
    # Nothing has changed since.
    changes = Changes(Listed.of(listing), retry=True)
    table = pa.concat_tables(table for _, table in run.read_parts(["uri"]))
    assert len(set(table["uri"].to_pylist())) == 52


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("plan", "../../precious"),
        ("plan", "/"),
        ("run_id", "x/../../precious/y"),
        ("run_id", 12345678),
        ("redo", [[]]),
    ],
)
def test_a_run_that_would_lead_elsewhere_is_refused(
    key: str, value: object, tmp_path: Path
) -> None:
    place = tmp_path / "p"
    predict(place, [scored("/i/a.jpg", ("x", 0.5))], images="/i")
    file = place / "_run.json"
    for text in (json.dumps({**json.loads(file.read_text()), key: value}), "[" * 100_000):
        file.write_text(text)
        with pytest.raises(RunError, match=r"_run\.json is damaged"):
            open_run(str(place), Storage(), {})


def test_overwriting_follows_no_link_out_of_the_place(tmp_path: Path) -> None:
    place, precious = tmp_path / "p", tmp_path / "precious"
    predict(place, [scored("/i/a.jpg", ("x", 0.5))], images="/i")
    (place / "_plan").rename(precious)
    (precious / "photo.jpg").touch()
    (place / "_plan").symlink_to(precious)
    with (
        hold(str(place), STORAGE, print) as lease,
        pytest.raises(RunError, match=r"other files than predictions \(2, such as _plan/"),
    ):
        clear(str(place), lease)
    assert len([path for path in precious.rglob("*") if path.is_file()]) == 2
