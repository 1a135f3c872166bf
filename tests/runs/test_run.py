"""Shards, identity, the fence, and the final count; test_update.py has the redo."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from monkeyray.errors import ConfigError, LeaseError, RunError
from monkeyray.runs.lease import Lease, hold
from monkeyray.runs.place import clear, create_run, open_run
from monkeyray.runs.run import Run
from monkeyray.runs.update import Changes, update_run
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.predicted import predict, scored
from tests.support.runs import IDENTITY, STORAGE, listed, make_run, publish, rows


def test_a_run_is_read_back_and_finished(tmp_path: Path, lease: Lease) -> None:
    made = make_run(tmp_path, lease)
    run = open_run(Location.of(str(tmp_path)), STORAGE, IDENTITY)
    assert run is not None
    assert (run.run_id, run.plan.sizes) == (made.run_id, made.plan.sizes)
    for shard in range(24):
        publish(run, shard)
    assert run.pending() == {24: 2}
    with pytest.raises(RunError, match="48 rows for 50"):
        run.finish(lease)
    assert not (tmp_path / "_SUCCESS").exists()
    publish(run, 24)
    assert run.finish(lease)["status"] == {"ok": 50}
    assert json.loads((tmp_path / "_SUCCESS").read_text())["planned"] == 50
    parquet = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")}
    assert parquet == {f"part-{shard:05d}-{run.run_id}.parquet" for shard in range(25)}


def test_rows_that_are_not_the_plans_are_refused(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease)
    plan = run.plan.read(0)
    for wrong in (rows(plan).slice(1), rows(plan).take([1, 0]), rows(run.plan.read(1))):
        with pytest.raises(RunError, match="bug"):
            run.publish(0, plan, wrong)
    assert len(run.pending()) == 25


def test_shard_made_twice_is_one_file(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease)
    publish(run, 0)
    before = Path(run.file_uri(0)).read_bytes()
    publish(run, 0, status="missing")
    assert Path(run.file_uri(0)).read_bytes() == before


def test_changed_file_is_found_at_the_end(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease)
    for shard in range(25):
        publish(run, shard)
    pq.write_table(rows(run.plan.read(3)).slice(1), run.file_uri(3))
    with pytest.raises(RunError, match=r"part-00003-.* has rows that are not its planned"):
        run.finish(lease)


@pytest.mark.parametrize("damage", ["cut", "short", "garbled"])
def test_a_damaged_plan_is_named_with_a_way_out(tmp_path: Path, lease: Lease, damage: str) -> None:
    run = make_run(tmp_path, lease)
    for shard in range(25):
        publish(run, shard)
    plan = tmp_path / "_plan" / run.run_id / "plan-00001.arrow"
    if damage == "short":
        short = replace(run.plan, folder=run.place / "short")
        short.write_all(run.plan.read(shard) for shard in range(8))
        (tmp_path / "short" / "plan-00000.arrow").rename(plan)
    else:
        data = plan.read_bytes()
        plan.write_bytes(
            data[:-9] if damage == "cut" else data.replace(b"\x28\xb5\x2f\xfd", b"zstd")
        )
    for use in (lambda: run.finish(lease), lambda: run.plan.read(20)):
        with pytest.raises(RunError, match=r"plan-00001\.arrow is damaged .*--overwrite"):
            use()


def test_another_run_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "_config.toml").touch()
    assert open_run(Location.of(str(tmp_path / "new")), STORAGE, {}) is None
    with hold(Location.of(str(tmp_path / "run")), STORAGE, print) as lease:
        make_run(tmp_path / "run", lease)
    with pytest.raises(RunError, match="model_id is 'b', was 'a'"):
        open_run(Location.of(str(tmp_path / "run")), STORAGE, {"model_id": "b"})
    stored = json.loads((tmp_path / "run" / "_run.json").read_text())
    for damaged in ({"of": "another version"}, *(stored | {"sizes": x} for x in (["a"], [None]))):
        (tmp_path / "run" / "_run.json").write_text(json.dumps(damaged))
        with pytest.raises(RunError, match="--overwrite"):
            open_run(Location.of(str(tmp_path / "run")), STORAGE, IDENTITY)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.docx").touch()
    with pytest.raises(RunError, match=r"thesis\.docx"):
        open_run(Location.of(str(tmp_path / "other")), STORAGE, {})


def test_a_process_of_an_overwritten_run_does_no_harm(tmp_path: Path) -> None:
    with hold(Location.of(str(tmp_path)), STORAGE, print) as lease:
        old = make_run(tmp_path, lease)
        publish(old, 0)
        plan = old.plan.read(3)
    with hold(Location.of(str(tmp_path)), STORAGE, print) as lease:
        clear(Location.of(str(tmp_path)), lease)
        run = make_run(tmp_path, lease)
        with pytest.raises(LeaseError, match="taken over"):
            old.publish(3, plan, rows(plan))
        # One that had looked at the fence before, and wrote after the take-over.
        late = BlinkingRun(**vars(old))
        with pytest.raises(LeaseError, match="taken over"):
            late.publish(3, plan, rows(plan))
        assert not Path(old.file_uri(3)).exists()
        # And one that was killed before it could look again.
        STORAGE.create(old.file_uri(2), b"a forgotten process's")
        for shard in range(25):
            publish(run, shard)
        run.finish(lease)
    names = {path.name for path in tmp_path.glob("*.parquet")}
    assert names == {f"part-{shard:05d}-{run.run_id}.parquet" for shard in range(25)}


class BlinkingRun(Run):
    """A run that is taken over just after it has looked at the fence."""

    def check(self) -> None:
        if not vars(self).pop("has_looked", False):
            vars(self)["has_looked"] = True
        else:
            super().check()


def test_a_stray_file_is_deleted(tmp_path: Path) -> None:
    with hold(Location.of(str(tmp_path)), STORAGE, print) as lease:
        run = make_run(tmp_path, lease)
        for shard in range(25):
            publish(run, shard)
        strays = [run.file_uri(25), run.file_uri(99999), run.file_uri(3, "0" * 8)]
        for uri in strays:
            STORAGE.write(uri, STORAGE.read(run.file_uri(3)).data)
        assert run.finish(lease)["status"] == {"ok": 50}
    assert not any(Path(uri).exists() for uri in strays)


def test_worker_without_access_to_the_output_says_so(tmp_path: Path) -> None:
    with hold(Location.of(str(tmp_path)), STORAGE, print) as lease:
        run = make_run(tmp_path, lease)
        run.check_shared()
    elsewhere = replace(run, place=run.place / "not mounted")
    with pytest.raises(
        ConfigError, match=f"{elsewhere.place} is a local path that some workers cannot"
    ):
        elsewhere.check_shared()
    assert not Path(elsewhere.place.path).exists()


def test_paused_driver_does_no_harm_after_a_takeover(tmp_path: Path) -> None:
    with hold(Location.of(str(tmp_path)), STORAGE, print) as old_lease:
        pass
    # Both saw an empty place; the other one was quicker, and the sleeper goes on where it was.
    with hold(Location.of(str(tmp_path)), STORAGE, print) as lease:
        run = make_run(tmp_path, lease)
        other = listed([f"/y/{i}.jpg" for i in range(40)])
        for sleeper in (old_lease, BlinkingLease(old_lease)):
            with pytest.raises(LeaseError):
                create_run(Location.of(str(tmp_path)), sleeper, IDENTITY, other, [40])
        for shard in range(25):
            publish(run, shard)
        with pytest.raises(LeaseError):
            update_run(run, old_lease, Changes(None, retry=True))
        for sleeper in (old_lease, BlinkingLease(old_lease)):
            with pytest.raises(LeaseError):
                run.finish(sleeper)
            assert not (tmp_path / "_SUCCESS").exists()
        assert run.finish(lease)["status"] == {"ok": 50}
    again = open_run(Location.of(str(tmp_path)), STORAGE, IDENTITY)
    assert again is not None
    assert again.pending() == {}


class BlinkingLease(Lease):
    """A lease whose place is taken over just after its first check."""

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease.place, lease.storage, lease.token)
        object.__setattr__(self, "checks", 0)

    def check(self) -> None:
        object.__setattr__(self, "checks", self.checks + 1)  # type: ignore[attr-defined]
        if self.checks > 1:  # type: ignore[attr-defined]
            super().check()


def test_overwriting_deletes_only_what_is_of_a_run(tmp_path: Path) -> None:
    with hold(Location.of(str(tmp_path)), STORAGE, print) as lease:
        run = make_run(tmp_path, lease)
        publish(run, 0)
        (tmp_path / "_config.toml").touch()
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "photo.jpg").touch()
        with pytest.raises(RunError, match=r"deep/photo\.jpg"):
            clear(Location.of(str(tmp_path)), lease)
        assert Path(run.file_uri(0)).exists()
        (tmp_path / "deep" / "photo.jpg").unlink()
        clear(Location.of(str(tmp_path)), lease)
        assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"_lease.json"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ids", ["../../precious"]),
        ("ids", ["01234567", "/"]),
        ("ids", []),
        ("ids", 12345678),
        ("redo", [[]]),
        ("redo", {"1": None}),
        ("redo", {"0": [1]}),
        ("redo", {"0": [-1]}),
        ("sizes", [-1]),
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
            open_run(Location.of(str(place)), Storage(), {})


def test_overwriting_follows_no_link_out_of_the_place(tmp_path: Path) -> None:
    place, precious = tmp_path / "p", tmp_path / "precious"
    predict(place, [scored("/i/a.jpg", ("x", 0.5))], images="/i")
    (place / "_plan").rename(precious)
    (precious / "photo.jpg").touch()
    (place / "_plan").symlink_to(precious)
    with (
        hold(Location.of(str(place)), STORAGE, print) as lease,
        pytest.raises(RunError, match=r"other files than predictions \(2, such as _plan/"),
    ):
        clear(Location.of(str(place)), lease)
    assert len([path for path in precious.rglob("*") if path.is_file()]) == 2
