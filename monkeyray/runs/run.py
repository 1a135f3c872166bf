"""A run: a plan of images, and each of its parts written as one whole Parquet file.

    place/part-00000-….parquet …   a file for each part, there whole or not at all
    place/_run.json                what the run is (its identity) and how the plan is cut
    place/_config.toml             the options of its latest call, for people and for --config
    place/_plan/…                  the plan itself; an update writes another and then changes over
    place/_lease.json              who is writing, as long as somebody is
    place/_SUCCESS                 counts, written last

Side files never end in .parquet, because DuckDB's globs do not skip names with an underscore.
A part's name follows from its place in the plan, so a part that is made twice is one file. It also
names the run, so that what a forgotten process of an overwritten run writes can be told apart.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from monkeyray.arrays import Ints
from monkeyray.errors import ConflictError, LeaseError, MissingError, RunError
from monkeyray.images.boxes import has_boxes
from monkeyray.runs.lease import NAME as LEASE
from monkeyray.runs.lease import Lease
from monkeyray.runs.plan import Listing, Plan, same_rows
from monkeyray.storage.keys import _json
from monkeyray.storage.location import is_local, join
from monkeyray.storage.store import Storage

#: Statuses whose reason may have passed since.
MAY_PASS = ("missing", "forbidden", "crashed", "timeout")


_PART = re.compile(r"part-(\d{5,})-([0-9a-f]{8})\.(parquet|trial)")
#: Of a run and of a plan: parts of paths, of which an update deletes some.
_NAME = re.compile(r"[0-9a-f]{8}")
#: What is ours in a place, but the lease.
_OURS = re.compile(
    r"_SUCCESS|_run\.json|_config\.toml|_plan/.*|\.trial-.*|\..*\.tmp|" + _PART.pattern, re.DOTALL
)
_READERS = 16

#: Rows in one group, which readers take into memory whole: with 2,048 features 256 MiB.
_GROUP_ROWS = 2**15


@dataclass(frozen=True)
class Redo:
    """Rows of finished parts that are to be made again: by part, the rows in it.

    A row that was made at or after `since` has been made again already.
    """

    since: datetime
    rows: dict[int, list[int]]


@dataclass(frozen=True)
class Run:
    """A run in its place."""

    uri: str
    storage: Storage
    run_id: str
    identity: dict[str, Any]
    plan: Plan
    #: What was seen while planning, such as files skipped, for the summary.
    notes: dict[str, Any] = field(default_factory=dict)
    redo: Redo | None = None
    #: The version of _run.json that this is.
    version: str | None = None
    #: A trial's files have another ending, so that no reader takes them for predictions.
    ending: str = "parquet"

    @property
    def rows(self) -> int:
        """Images in the plan."""
        return sum(self.plan.sizes)

    def part_uri(self, part: int) -> str:
        """The Parquet file of a part."""
        return join(self.uri, f"part-{part:05d}-{self.run_id}.{self.ending}")

    def finished(self) -> set[int]:
        """The parts that have a file."""
        found = set()
        for entry in self.storage.list(self.uri):
            match = _PART.fullmatch(entry.uri[len(self.uri) + 1 :])
            if match and match[2] == self.run_id and match[3] == self.ending:
                found.add(int(match[1]))
        return found

    def pending(self) -> dict[int, int]:
        """The parts that have no file yet or hold rows to be made again, in order, each with the
        number of images that are to be opened for it."""
        finished = self.finished()
        pending = {p: n for p, n in enumerate(self.plan.sizes) if p not in finished}
        if self.redo is not None:
            again = [part for part in sorted(self.redo.rows) if part in finished]
            for part, table in self.read_parts(["predicted_at"], again):
                rows = self._to_redo(part, table["predicted_at"])
                if len(rows):
                    pending[part] = len(rows)
        return dict(sorted(pending.items()))

    def _to_redo(self, part: int, made: pa.ChunkedArray) -> Ints:
        """Which rows of a finished part are still to be made again; `made`: when they were."""
        assert self.redo is not None
        wanted = np.array(self.redo.rows.get(part, []), np.int64)
        since = int(self.redo.since.timestamp() * 1_000_000)
        early = made.cast(pa.int64()).to_numpy()[wanted] < since
        return np.asarray(wanted[early], np.int64)

    def read_to_redo(self, part: int) -> tuple[pa.Table, str | None, Ints] | None:
        """A part's file, its version, and the rows of it to be made again; None without a file."""
        if self.redo is None or part not in self.redo.rows:
            return None
        try:
            blob = self.storage.read(self.part_uri(part))
        except MissingError:
            return None
        table = pq.read_table(pa.BufferReader(blob.data))
        return table, blob.version, self._to_redo(part, table["predicted_at"])

    def read_part(self, part: int, columns: list[str] | None = None) -> pa.Table:
        """A part's file, whole or some columns."""
        return read_parquet(self.storage, self.part_uri(part), columns)

    def publish(self, part: int, plan: pa.Table, table: pa.Table, lease: Lease) -> None:
        """Publish the rows of a part that has no file yet.

        Another worker's file of the same part is left as it is. Raises RunError when the rows are
        not those of the plan, and LeaseError when the place has been taken over.
        """
        self._check(part, plan, table)
        lease.check()
        try:
            self.storage.create(self.part_uri(part), to_parquet(table))
        except ConflictError:
            return
        try:
            lease.check()
        except RunError:
            # Between the first check and the file the place was taken over; where that was to
            # start anew, a file of the old run must not stay.
            if self._is_replaced():
                self.storage.delete(self.part_uri(part))
            raise

    def publish_again(
        self, part: int, plan: pa.Table, table: pa.Table, version: str | None, lease: Lease
    ) -> None:
        """Replace a part's file whole, if it is still the version that was read."""
        self._check(part, plan, table)
        lease.check()
        self.storage.replace(self.part_uri(part), to_parquet(table), version)

    def _check(self, part: int, plan: pa.Table, table: pa.Table) -> None:
        if not same_rows(table, plan):
            raise RunError(
                f"part {part} has {table.num_rows} rows that are not its {plan.num_rows} planned "
                "images: this is a bug in MonkeyRay"
            )

    def _is_replaced(self) -> bool:
        try:
            stored = json.loads(self.storage.read(join(self.uri, "_run.json")).data)
        except (MissingError, ValueError, RecursionError):
            return True
        return bool(stored.get("run_id") != self.run_id)

    def finish(self, lease: Lease, count: tuple[str, ...] = ()) -> dict[str, Counter[str]]:
        """Compare what the files hold with the plan, count it, and write _SUCCESS.

        Returns the rows by `status`, and by each column of `count`. Raises RunError when the files
        do not hold one row for each image of the plan, and LeaseError when the place has been
        taken over.
        """
        lease.check()
        self._delete_strays()
        columns = ["status", *count]
        totals: dict[str, Counter[str]] = {name: Counter() for name in columns}
        rows = 0
        finished = sorted(self.finished())
        plan = self.plan.read_all()
        key = ["uri", *(["detection"] if has_boxes(self.plan.schema().names) else [])]
        for part, table in self.read_parts([*key, *columns], finished):
            planned = next(rows for number, rows in plan if number == part)
            if not same_rows(table, planned):
                raise RunError(
                    f"{self.part_uri(part)} has {table.num_rows} rows that are not its "
                    f"{planned.num_rows} images: it was changed by another program; delete it and "
                    "run the same command again"
                )
            rows += table.num_rows
            for name in columns:
                for item in table[name].value_counts().to_pylist():
                    if item["values"] is not None:
                        totals[name][item["values"]] += item["counts"]
        if not rows == self.rows == totals["status"].total() or len(finished) < len(
            self.plan.sizes
        ):
            raise RunError(
                f"{self.uri} has {rows} rows for {self.rows} planned images: files were removed by "
                "another program; run the same command again"
            )
        summary = {
            "planned": self.rows,
            "rows": rows,
            **totals,
            **self.notes,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        lease.check()
        self.storage.write(join(self.uri, "_SUCCESS"), _json(summary))
        return totals

    def _delete_strays(self) -> None:
        """Delete files of an overwritten run, and what killed processes of this one left behind."""
        for entry in self.storage.list(self.uri):
            name = entry.uri[len(self.uri) + 1 :]
            match = _PART.fullmatch(name)
            left = name.startswith(".part-") and name.endswith(".tmp")
            if left or (match and match[2] != self.run_id):
                self.storage.delete(entry.uri)

    def read_parts(
        self, columns: list[str] | None = None, parts: list[int] | None = None
    ) -> Iterator[tuple[int, pa.Table]]:
        """The files that are there, or those of the given parts, as numbers and tables."""
        parts = sorted(self.finished()) if parts is None else parts

        def read(part: int) -> tuple[int, pa.Table]:
            return part, self.read_part(part, columns)

        with ThreadPoolExecutor(_READERS) as pool:
            # A window, so that memory holds a few files and not all.
            for start in range(0, len(parts), 2 * _READERS):
                yield from pool.map(read, parts[start : start + 2 * _READERS])

    def update(
        self,
        lease: Lease,
        changes: Callable[[pa.Table, pa.Table | None], tuple[pa.Table, list[int]]],
        columns: list[str],
        new: Listing | None = None,
        sizes: list[int] | None = None,
        notes: Callable[[], dict[str, Any]] | None = None,
    ) -> Run:
        """Change the plan, so that some rows are made again and new parts of `sizes` are added.

        `changes` gets a part's plan and what its file holds of `columns` (None where it has no
        file), and returns the part's new plan and the rows to be made again. `notes` is asked for
        new ones once all parts have been seen.
        """
        lease.check()
        self.storage.delete(join(self.uri, "_SUCCESS"))
        finished = self.finished()
        again: dict[int, list[int]] = {}
        latest = datetime.now(UTC)

        def parts() -> Iterator[pa.Table]:
            nonlocal latest
            for part, rows in self.plan.read_all():
                held = None
                if part in finished:
                    held = self.read_part(part, [*columns, "predicted_at"])
                    # Clocks differ: all that was made so far is before what is made again.
                    newest = pc.max(held["predicted_at"]).as_py()
                    latest = max(latest, newest + timedelta(microseconds=1))
                changed, redo = changes(rows, held)
                if held is not None and self.redo is not None:
                    # What an earlier update asked for and did not get.
                    redo = sorted({*redo, *self._to_redo(part, held["predicted_at"]).tolist()})
                if redo:
                    again[part] = redo
                yield changed
            if new is not None:
                yield from new.shards(sizes or [])

        all_sizes = (*self.plan.sizes, *(sizes or []))
        plan = Plan(_new_plan(self.uri), self.storage, all_sizes)
        plan.write_all(parts())
        run = replace(self, plan=plan, redo=Redo(latest, again))
        run = replace(run, notes=notes() if notes else self.notes)._save(lease)
        for entry in list(self.storage.list(self.plan.folder)):
            if not _leads_out(self.uri, entry.uri[len(self.uri) + 1 :]):
                self.storage.delete(entry.uri)
        return run

    def _save(self, lease: Lease) -> Run:
        """Write _run.json, after the plan that it tells of and only over the one it was read from.

        Raises LeaseError when the place has been taken over.
        """
        stored = {
            "run_id": self.run_id,
            "identity": self.identity,
            "plan": self.plan.folder.rpartition("/")[2],
            "sizes": self.plan.sizes,
            "notes": self.notes,
            "redo": None
            if self.redo is None
            else {"since": self.redo.since.isoformat(), "rows": self.redo.rows},
        }
        lease.check()
        uri = join(self.uri, "_run.json")
        try:
            if self.version is None:
                version = self.storage.create(uri, _json(stored))
            else:
                version = self.storage.replace(uri, _json(stored), self.version)
        except ConflictError:
            raise LeaseError(f"{self.uri} was taken over by another run") from None
        return replace(self, version=version)


def _new_plan(uri: str) -> str:
    return join(uri, "_plan", uuid.uuid4().hex[:8])


def read_run(uri: str, storage: Storage, remedy: str) -> Run | None:
    """The run in a place as it says of itself; None where there is none.

    Raises RunError, with the `remedy`, where _run.json is damaged or of another version.
    """
    try:
        blob = storage.read(join(uri, "_run.json"))
    except MissingError:
        return None
    try:
        stored = json.loads(blob.data)
        if not all(_NAME.fullmatch(stored[key]) for key in ("run_id", "plan")):
            raise ValueError("a name that leads elsewhere")
        redo = stored["redo"]
        if redo is not None:
            rows = {int(part): rows for part, rows in redo["rows"].items()}
            redo = Redo(datetime.fromisoformat(redo["since"]), rows)
        plan = Plan(join(uri, "_plan", stored["plan"]), storage, tuple(stored["sizes"]))
        identity = dict(stored["identity"])
        run = Run(uri, storage, stored["run_id"], identity, plan, stored["notes"], redo)
        return replace(run, version=blob.version)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(
            f"{uri}/_run.json is damaged or of another version of MonkeyRay: {remedy}"
        ) from error


def open_run(uri: str, storage: Storage, identity: dict[str, Any]) -> Run | None:
    """The run in a place, to go on with; None where there is nothing yet.

    Raises RunError when the place holds a run of another identity, naming what differs, or files
    that belong to no run.
    """
    run = read_run(uri, storage, "choose another place, or start anew with --overwrite")
    if run is None:
        _check_empty(uri, storage)
        return None
    different = [
        f"{key} is {identity.get(key)!r}, was {run.identity.get(key)!r}"
        for key in sorted({*identity, *run.identity})
        if identity.get(key) != run.identity.get(key)
    ]
    if different:
        raise RunError(
            f"{uri} holds another run: {'; '.join(different)}. Choose another place, or replace "
            "it with --overwrite"
        )
    return run


def _check_empty(uri: str, storage: Storage) -> None:
    for entry in storage.list(uri):
        name = entry.uri[len(uri) + 1 :]
        if name != LEASE and (not _OURS.fullmatch(name) or _PART.fullmatch(name)):
            raise RunError(
                f"{uri} is not empty and holds no run (it has {name}): choose an empty place, or "
                "delete it there"
            )


def _leads_out(uri: str, name: str) -> bool:
    """Whether a file below a place is elsewhere, since a folder on the way is a link."""
    if not is_local(uri) or "/" not in name:
        return False
    folder = Path(join(uri, name)).parent.resolve()
    return not folder.is_relative_to(Path(uri).resolve())


def create_run(
    uri: str,
    lease: Lease,
    identity: dict[str, Any],
    listing: Listing,
    sizes: list[int],
    notes: dict[str, Any] | None = None,
    *,
    ending: str = "parquet",
) -> Run:
    """Write a new run's plan, and _run.json last, so that a plan is there whole or not at all."""
    if sum(sizes) != listing.rows:
        raise RunError(f"parts of {sum(sizes)} images for a plan of {listing.rows}")
    return create_run_of_parts(
        uri, lease, identity, listing.shards(sizes), sizes, notes, ending=ending
    )


def create_run_of_parts(
    uri: str,
    lease: Lease,
    identity: dict[str, Any],
    parts: Iterable[pa.Table],
    sizes: Sequence[int],
    notes: dict[str, Any] | None = None,
    *,
    ending: str = "parquet",
) -> Run:
    """`create_run` for a plan that is cut already; `parts`: in order, as long as `sizes` say."""
    storage = lease.storage
    plan = Plan(_new_plan(uri), storage, tuple(sizes))
    plan.write_all(parts)
    run_id = uuid.uuid4().hex[:8]
    return Run(uri, storage, run_id, identity, plan, notes or {}, ending=ending)._save(lease)


def clear(uri: str, lease: Lease) -> None:
    """Delete all of a run but its lease, its claim to be finished first.

    Raises RunError, and deletes nothing, where there are files that are not of a run.
    """
    storage = lease.storage
    names = [entry.uri[len(uri) + 1 :] for entry in storage.list(uri)]
    strange = [
        name
        for name in names
        if name != LEASE and (not _OURS.fullmatch(name) or _leads_out(uri, name))
    ]
    if strange:
        raise RunError(
            f"{uri} holds other files than predictions ({len(strange)}, such as {strange[0]}), "
            "which --overwrite does not delete: choose another place"
        )
    lease.check()
    for name in ("_SUCCESS", "_run.json"):
        storage.delete(join(uri, name))
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(storage.delete, (join(uri, name) for name in names if name != LEASE)))


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file, with a page index, from which viewers and engines see
    what of it they need."""
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", write_page_index=True, row_group_size=_GROUP_ROWS
    )
    return sink.getvalue()


def read_parquet(storage: Storage, uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, whole or some columns; of a remote one, only their bytes are fetched."""
    if columns is None or is_local(uri):
        return pq.read_table(pa.BufferReader(storage.read(uri).data), columns=columns)
    with storage.open(uri) as file:
        return pq.read_table(file, columns=columns)
