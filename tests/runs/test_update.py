"""The redo of a run: what is made again, and that it may be killed between any two steps."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monkeyray.errors import InputError, LeaseError, MissingError, RunError
from monkeyray.runs.lease import Lease, hold
from monkeyray.runs.place import open_run
from monkeyray.runs.plan import Listing, collect
from monkeyray.runs.reader import open_predictions
from monkeyray.runs.run import Run
from monkeyray.runs.update import Changes, Listed, new_rows, update_run
from monkeyray.runs.workers.worker import Job, ShardWorker
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.runs import IDENTITY, NAMES, STORAGE, listed, make_run, publish, rows


def work(run: Run, status: str = "ok") -> dict[int, list[str]]:
    """Make everything that is pending, as workers do; returns the URIs that were opened, by
    shard."""
    opened: dict[int, list[str]] = {}

    def maker(shard: int, plan: pa.Table) -> Iterator[pa.Table]:
        opened[shard] = plan["uri"].to_pylist()
        yield rows(plan, status)

    worker = ShardWorker(Job("scoring", run, maker), None, lambda rows, read: None)
    for shard in run.pending():
        worker.make(shard)
    return opened


def uris(run: Run) -> Counter[str]:
    """The URIs in the newest files, each of which our readers see."""
    return Counter(uri for _, table in run.read_files(["uri"]) for uri in table["uri"].to_pylist())


def globbed(place: Path) -> Counter[str]:
    """The URIs that a glob over the place sees."""
    tables = (pq.read_table(path, columns=["uri"]) for path in place.glob("*.parquet"))
    return Counter(uri for table in tables for uri in table["uri"].to_pylist())


def test_failures_are_made_again(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease)
    for shard in range(25):
        publish(run, shard, "missing" if shard == 7 else "ok")
    run.finish(lease)
    files = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    changes = Changes(None, retry=True)
    after = update_run(run, lease, changes)
    assert (changes.retried, changes.changed, changes.vanished) == (2, 0, 0)
    assert not (tmp_path / "_SUCCESS").exists()
    assert open_run(Location.of(str(tmp_path)), STORAGE, IDENTITY) == after
    assert after.pending() == {7: 2}
    assert work(after) == {7: NAMES[14:16]}
    # The old file stays until all have a successor; our readers take the newest.
    assert Path(run.file_uri(7)).exists()
    assert uris(after) == Counter(NAMES)
    assert after.finish(lease)["status"] == {"ok": 50}
    assert globbed(tmp_path) == Counter(NAMES)
    for path, data in files.items():
        assert path.exists() == ("part-00007" not in path.name)
        assert not path.exists() or path.read_bytes() == data


def test_a_second_update_forgets_nothing_of_the_first(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease)
    for shard in range(24):
        publish(run, shard, "missing" if shard == 7 else "ok")
    run = update_run(run, lease, Changes(Listed.of(listed([*NAMES[:10]], "2")), retry=False))
    assert run.pending() == {**dict.fromkeys(range(5), 2), 24: 2}
    plan = run.plan.read(0)
    run.publish(0, plan, rows(plan))
    run = update_run(run, lease, Changes(None, retry=True))
    assert run.pending() == {**dict.fromkeys(range(1, 5), 2), 7: 2, 24: 2}
    work(run)
    assert run.finish(lease)["status"] == {"ok": 50}
    assert globbed(tmp_path) == Counter(NAMES)
    assert {shard: run.ids.index(found) for shard, found in run.files().items()} == {
        shard: 1 if shard == 0 else 2 if shard in (1, 2, 3, 4, 7, 24) else 0 for shard in range(25)
    }


def test_an_update_finds_what_is_new_changed_and_gone(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease)
    for shard in range(20):
        publish(run, shard)
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
    run = update_run(run, lease, changes, new, [1, 1])
    # 0 and 11, 41-44, 46-49 are gone; 10 has a row that is old, 45 has none yet.
    assert (changes.changed, changes.vanished) == (2, 10)
    assert run.pending() == {5: 1, **dict.fromkeys(range(20, 25), 2), 25: 1, 26: 1}
    # The plan needs the new place of a member, or the worker would search the archive for it.
    assert run.plan.read(22)["version"].to_pylist() == ["1", "2"]
    assert run.plan.read(5)["version"].to_pylist() == ["2", "1"]
    assert run.rows == 52
    assert work(run)[5] == [NAMES[10]]
    assert run.finish(lease)["status"] == {"ok": 52}
    assert globbed(tmp_path) == Counter([*NAMES, "/x/new1", "/x/new2"])


def test_members_to_be_made_have_the_version_that_their_archive_has_now() -> None:
    names = ["/x/a.tar#1.jpg", "/x/a.tar#2.jpg"]
    plan = pa.concat_tables(listed(names, "old@1-2t").tables())
    changes = Changes(Listed.of(listed(names, "new@1-2t")), retry=True)
    assert changes(plan, None)[0]["version"].to_pylist() == ["new@1-2t"] * 2
    held = pa.table(
        {
            "status": ["ok", "missing"],
            "size_bytes": plan["size_bytes"],
            "etag_or_mtime": plan["version"],
        }
    )
    now, made = changes(plan, held)
    assert (now["version"].to_pylist(), made) == (["old@1-2t", "new@1-2t"], [1])
    assert changes.changed == 0


def test_an_update_that_finds_nothing_leaves_all_as_it_is(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease)
    work(run)
    run.finish(lease)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changes = Changes(Listed.of(listed(NAMES[1:])), retry=True)
    after = update_run(run, lease, changes, notes=lambda: {"gone": changes.vanished})
    assert after == replace(run, notes={"gone": 1})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert open_run(Location.of(str(tmp_path)), STORAGE, IDENTITY) == run
    # Nor is anything new asked of one that is not finished.
    Path(run.file_uri(3)).unlink()
    assert update_run(run, lease, Changes(None, retry=True)).pending() == {3: 2}


class Counted(Storage):
    """A storage that counts the Parquet files that it is asked for."""

    def read(self, place: Any, *arguments: Any) -> Any:
        vars(self).setdefault("asked", []).extend([str(place)] * str(place).endswith(".parquet"))
        return super().read(place, *arguments)


def test_rows_of_earlier_files_cost_one_request_a_file(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease, 10)
    work(run)
    for version, names in (("2", NAMES[:10:2]), ("3", NAMES[:1]), ("4", NAMES[1:10:2])):
        run = update_run(run, lease, Changes(Listed.of(listed(names, version)), retry=False))
        if version != "4":
            work(run, version)
    run = replace(run, storage=Counted())
    tables = [run.read_earlier(shard, run.plan.read(shard)) for shard in range(5)]
    rows = [table["status"].to_pylist() for table in tables if table is not None]
    assert rows == [["3", "ok"], *[["2", "ok"]] * 4]
    assert len(vars(run.storage)["asked"]) == 5


def test_only_one_of_two_updates_continues(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease)
    work(run, "timeout")
    plan = run.plan.read(0)
    after = update_run(run, lease, Changes(None, retry=True))
    # The other one had read the run before, and it or its workers go on now.
    for step in (
        lambda: update_run(run, lease, Changes(None, retry=True)),
        lambda: run.publish(0, plan, rows(plan)),
        lambda: run.finish(lease),
    ):
        with pytest.raises((LeaseError, MissingError)):
            step()
    work(after)
    assert after.finish(lease)["status"] == {"ok": 50}
    assert globbed(tmp_path) == Counter(NAMES)


class Killed(BaseException):
    """Ends a process in its tracks."""


class Mortal(Storage):
    """A storage whose process is killed at the `moment`-th time that it changes something: `before`
    the change, or just after it."""

    def live(self, moment: int, before: bool) -> None:
        vars(self).update(moment=moment, before=before)

    def changing(self, method: str, *arguments: Any) -> Any:
        vars(self)["moment"] -= 1
        if vars(self)["moment"] == 0 and vars(self)["before"]:
            raise Killed
        result = getattr(super(), method)(*arguments)
        if vars(self)["moment"] == 0:
            raise Killed
        return result

    def create(self, *arguments: Any) -> Any:
        return self.changing("create", *arguments)

    def replace(self, *arguments: Any) -> Any:
        return self.changing("replace", *arguments)

    def write(self, *arguments: Any) -> Any:
        return self.changing("write", *arguments)

    def delete(self, *arguments: Any) -> Any:
        return self.changing("delete", *arguments)


def update(
    place: Path, storage: Storage, listing: Listing, lease: Lease, status: str = "ok"
) -> Run:
    """What `score --update --retry-failed` does."""
    run = open_run(Location.of(str(place)), storage, IDENTITY)
    assert run is not None
    new = listing.only(new_rows(run, listing))
    sizes = [1] * new.rows
    run = update_run(run, lease, Changes(Listed.of(listing), retry=True), new, sizes)
    work(run, status)
    run.finish(lease)
    return run


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("again", ["update", "resume"])
def test_killed_between_any_two_steps(tmp_path: Path, before: bool, again: str) -> None:
    """At every moment each old row is there, and the rerun gives each URI once."""
    now = pa.concat_tables(
        [
            pa.concat_tables(listed(NAMES[:8]).tables()),
            pa.concat_tables(listed([NAMES[8], "/x/new"], "2").tables()),
        ]
    )
    listing = collect([now])
    assert listing is not None
    moment = 0
    while True:
        moment += 1
        place = tmp_path / str(moment)
        with hold(Location.of(str(place)), STORAGE, print) as lease:
            run = make_run(place, lease, 10)
            for shard in range(5):
                publish(run, shard, "timeout" if shard in (1, 2) else "ok")
            run.finish(lease)
            storage = Mortal()
            storage.live(moment, before)
            killed = False
            try:
                update(
                    place, storage, listing, Lease(Location.of(str(place)), storage, lease.token)
                )
            except Killed:
                killed = True
            found = open_run(Location.of(str(place)), STORAGE, IDENTITY)
            assert found is not None
            assert set(NAMES[:10]) <= set(uris(found)) <= {*NAMES[:10], "/x/new"}
            assert max(uris(found).values()) == 1
            expected = Counter(NAMES[:10])
            if again == "update" or found.run_id != run.run_id:
                expected["/x/new"] += 1
            if again == "update":
                update(place, STORAGE, listing, lease)
            else:
                with contextlib.suppress(LeaseError):
                    work(found)
                found.finish(lease)
        assert globbed(place) == expected
        predictions = open_predictions(str(place), STORAGE)
        assert predictions.is_complete
        table = pa.concat_tables(predictions.tables(["uri", "status"]))
        assert Counter(table["uri"].to_pylist()) == expected
        if not killed:
            assert moment > 10
            return


class Slow(Storage):
    """A storage that makes its callers wait, by chance."""

    def read(self, *arguments: Any) -> Any:
        time.sleep(random.random() ** 4 / 20)
        return super().read(*arguments)

    def create(self, *arguments: Any) -> Any:
        time.sleep(random.random() ** 4 / 20)
        return super().create(*arguments)

    def delete(self, *arguments: Any) -> Any:
        time.sleep(random.random() ** 4 / 20)
        super().delete(*arguments)


class Believed(Lease):
    """A lease that its owner believes in, though it may be another's by now."""

    def check(self) -> None:
        pass


class Meddled(Storage):
    """A storage on which somebody else acts just after the first listing, and just before the first
    file is written."""

    def meddle(self, after_listing: Callable[[], Any], before_writing: Callable[[], Any]) -> None:
        vars(self).update(after_listing=after_listing, before_writing=before_writing)

    def list(self, *arguments: Any) -> Any:
        entries = [*super().list(*arguments)]
        vars(self).pop("after_listing", int)()
        return iter(entries)

    def write(self, *arguments: Any) -> Any:
        vars(self).pop("before_writing", int)()
        return super().write(*arguments)


def test_redo_started_before_the_previous_one_ended(tmp_path: Path, lease: Lease) -> None:
    """Files appear and are superseded while the next redo is planned: it finds the newest ones."""
    first = make_run(tmp_path, lease, 10)
    work(first, "timeout")
    storage = Meddled()
    run = update_run(first, lease, Changes(None, retry=True))
    storage.meddle(lambda: work(run), lambda: run.finish(lease))
    believed = Believed(lease.place, storage, "another")
    after = update_run(replace(run, storage=storage), believed, Changes(None, retry=True))
    assert after.ids == (*first.ids, run.run_id, after.ids[-1])
    assert work(after) == {shard: NAMES[2 * shard : 2 * shard + 2] for shard in range(5)}
    assert after.finish(lease)["status"] == {"ok": 10}
    assert globbed(tmp_path) == Counter(NAMES[:10])


def test_an_end_that_comes_too_late_deletes_nothing(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease, 10)
    work(run, "timeout")
    storage, after = Meddled(), []

    def overtake() -> None:
        after.append(update_run(run, lease, Changes(None, retry=True)))
        work(after[0])

    storage.meddle(overtake, int)
    with pytest.raises((LeaseError, MissingError)):
        replace(run, storage=storage).finish(Believed(lease.place, storage, "another"))
    assert not (tmp_path / "_SUCCESS").exists()
    assert after[0].finish(lease)["status"] == {"ok": 10}
    assert globbed(tmp_path) == Counter(NAMES[:10])


class OvertakenRun(Run):
    """A run whose place is taken over between a file and its second look at the fence."""

    def check(self) -> None:
        if vars(self).setdefault("has_looked", False):
            vars(self)["overtake"]()
            super().check()
        vars(self)["has_looked"] = True


@pytest.mark.parametrize("status", ["ok", "timeout"])
def test_file_counted_by_a_redo_is_kept(tmp_path: Path, lease: Lease, status: str) -> None:
    run = make_run(tmp_path, lease, 10)
    for shard in range(4):
        publish(run, shard, "timeout" if shard == 0 else "ok")
    plan = run.plan.read(4)
    late, successors = OvertakenRun(**vars(run)), []

    def overtake() -> None:
        successors.append(update_run(run, lease, Changes(None, retry=True)))
        if status == "ok":
            # It finds the shard made, and is finished without making it again.
            assert successors[0].pending() == {0: 2}
            work(successors[0])
            successors[0].finish(lease)

    vars(late)["overtake"] = overtake
    with pytest.raises(LeaseError, match="taken over"):
        late.publish(4, plan, rows(plan, status))
    assert uris(successors[0]) == Counter(NAMES[:10])
    work(successors[0])
    assert successors[0].finish(lease)["status"] == {"ok": 10}
    assert globbed(tmp_path) == Counter(NAMES[:10])


def test_file_unknown_to_a_redo_is_removed(tmp_path: Path, lease: Lease) -> None:
    run = make_run(tmp_path, lease, 10)
    for shard in range(4):
        publish(run, shard, "timeout" if shard == 0 else "ok")
    plan = run.plan.read(4)
    after = update_run(run, lease, Changes(None, retry=True))
    work(after)
    after.finish(lease)
    late = OvertakenRun(**vars(run))
    vars(late)["overtake"] = int
    with pytest.raises(LeaseError, match="taken over"):
        late.publish(4, plan, rows(plan))
    assert globbed(tmp_path) == Counter(NAMES[:10])


@pytest.mark.parametrize("seed", range(int(os.environ.get("MONKEYRAY_KILL_ROUNDS", "3"))))
def test_a_race_for_the_place_costs_no_row(tmp_path: Path, seed: int) -> None:
    """Several drivers resume and redo one run at the same time, as if there were no lease."""
    place, storage = Location.of(str(tmp_path)), Slow()
    with hold(place, STORAGE, print) as lease:
        run = make_run(tmp_path, lease, 10)
        for shard in range(4):
            publish(run, shard, "timeout" if shard in (1, 2) else "ok")
    listing = listed([*NAMES[1:9], "/x/new"], "2")

    def drive(number: int) -> None:
        believed = Believed(place, storage, str(number))
        with contextlib.suppress(LeaseError, MissingError, RunError, InputError):
            if number % 2:
                update(tmp_path, storage, listing, believed, "truncated")
            else:
                found = open_run(place, storage, IDENTITY)
                assert found is not None
                work(found, "truncated")
                found.finish(believed)

    random.seed(seed)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(drive, range(4)))
    with hold(place, STORAGE, print) as lease:
        update(tmp_path, STORAGE, listing, lease, "truncated")
    assert globbed(tmp_path) == Counter([*NAMES[:10], "/x/new"])
    table = pa.concat_tables(open_predictions(str(place), STORAGE).tables(["uri", "status"]))
    # The row of an image that is gone is kept; all others have changed.
    kept = [row["uri"] for row in table.to_pylist() if row["status"] == "ok"]
    assert kept == NAMES[:1]
