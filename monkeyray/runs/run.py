"""A run: a plan of images, cut into shards, each published as one whole Parquet file.

    place/part-00000-….parquet …   one file per shard, there whole or not at all
    place/_run.json                the run's ids, its identity, and how the plan is cut
    place/_config.toml             the options of the latest call, for people and for --config
    place/_plan/<id>/…             the plan itself
    place/_lease.json              who is writing, while a run is active
    place/_SUCCESS                 the run's id and its counts, written last

Files are called `part-…` because tables of several Parquet files usually are; everything else calls
them shards. Side files never end in .parquet, because DuckDB's globs do not skip underscores.

The fence: a run has an id, in `_run.json` and in the name of each file it makes. Files are
created, never overwritten, so a shard that is made twice is one file. Before and after it creates a
file, a process looks for its id in `_run.json`; if another run has taken the place, the file
removes itself, unless that run is a redo that may have counted it. The lease (lease.py) only keeps
a second active run out. When two processes race for the place of a dead run, work may be done
twice, but no row is lost or doubled.

Redo (`--update`, `--retry-failed`; update.py): the run gets a new id, and with it a new plan and
the rows to make again. `ids` lists the earlier ids whose files still count. A worker copies the
other rows of a shard from its newest file and publishes the shard again under the new id. The old
file stays until `finish` has found all successors. So our own readers, which take the newest file
of each shard, see each URI once at any time. A reader that globs `*.parquet` sees each URI once
while `_SUCCESS` is there; during a redo it also sees the rows of files that are not deleted yet.

`_run.json` is the only file that is replaced conditionally: a redo replaces the version it has
read, so that only one of two concurrent redos goes on. The plan of a redo that is killed before
that stays in `_plan/`, unused, until --overwrite; nobody can tell whether its redo is dead.
"""

from __future__ import annotations

import functools
import io
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monkeyray.console import counted
from monkeyray.errors import ConfigError, ConflictError, LeaseError, MissingError, RunError
from monkeyray.runs.lease import NAME as LEASE
from monkeyray.runs.lease import Lease
from monkeyray.runs.plan import Plan, row_keys, same_rows
from monkeyray.storage.backends.protocol import Entry
from monkeyray.storage.keys import json_bytes, sha256
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: Statuses whose cause may be gone by now.
MAY_PASS = ("missing", "forbidden", "archived", "crashed", "timeout")

#: Columns whose values each file counts in its footer, where it has them.
COUNTED = ("status", "label", "decision", "excluded_label")

FILE_NAME = re.compile(r"part-(\d{5,})-([0-9a-f]{8})\.(parquet|trial)")
_FOOTER = b"monkeyray.shard"
_READERS = 16

#: Rows in one group, which readers take into memory whole: with 2,048 features 256 MiB.
_GROUP_ROWS = 2**15

#: Of shards to make again, the rows; None for all of them.
Redo = dict[int, list[int] | None]


@dataclass(frozen=True)
class Run:
    """A run in its place. `ids`: its own last, before it those of earlier states whose files still
    count, oldest first. `redo`: the rows of earlier files that it makes again."""

    place: Location
    storage: Storage
    ids: tuple[str, ...]
    identity: dict[str, Any]
    plan: Plan
    #: Counts from planning, such as skipped files, for the summary.
    notes: dict[str, Any] = field(default_factory=dict)
    redo: Redo = field(default_factory=dict)
    #: The version of _run.json that this is.
    version: str | None = None
    #: A trial's files have another suffix, so that readers do not take them for predictions.
    ending: str = "parquet"

    @property
    def run_id(self) -> str:
        """The run's id, which changes with every redo."""
        return self.ids[-1]

    @property
    def rows(self) -> int:
        """Rows in the plan."""
        return sum(self.plan.sizes)

    # -- the fence -----------------------------------------------------------------------------

    def check(self) -> None:
        """Raise LeaseError unless the place still belongs to this run."""
        if self._id_in_place() != self.run_id:
            raise LeaseError(
                f"{self.place} was taken over by another run while this one was unresponsive: "
                "nothing is lost, let the other run continue"
            )

    def check_shared(self) -> None:
        """Raise ConfigError if this process does not see the run at all: the place is a local path
        that not every node mounts. Workers ask this before their first shard."""
        if self.place.is_local and self._id_in_place() is None:
            raise ConfigError(
                f"{self.place} is a local path that some workers cannot see: give s3://… or "
                "another "
                "store, or a disk that all nodes mount"
            )

    def _id_in_place(self) -> str | None:
        try:
            return str(json.loads(self.storage.read(self.place / "_run.json").data)["ids"][-1])
        except (MissingError, ValueError, KeyError, TypeError, IndexError, RecursionError):
            return None

    # -- files ---------------------------------------------------------------------------------

    def file_uri(self, shard: int, run_id: str | None = None) -> str:
        """The file of a shard, as this run or an earlier state of it makes it."""
        return str(self.place / f"part-{shard:05d}-{run_id or self.run_id}.{self.ending}")

    def files(self) -> dict[int, str]:
        """The shards that have a file, in order, each with the id in the name of its newest."""
        return self._newest(self.storage.list(self.place))

    def _newest(self, entries: Iterable[Entry]) -> dict[int, str]:
        ages = {run_id: age for age, run_id in enumerate(self.ids)}
        found: dict[int, int] = {}
        for entry in entries:
            match = FILE_NAME.fullmatch(self.place.relative(entry.uri) or "")
            if match and match[2] in ages and match[3] == self.ending:
                shard = int(match[1])
                if shard < len(self.plan.sizes):
                    found[shard] = max(found.get(shard, 0), ages[match[2]])
        return {shard: self.ids[found[shard]] for shard in sorted(found)}

    def pending(self) -> dict[int, int]:
        """The shards still to make, in order, each with its number of rows to make."""
        return self._pending(self.files())

    def _pending(self, files: dict[int, str]) -> dict[int, int]:
        pending = {}
        for shard, size in enumerate(self.plan.sizes):
            if shard not in files:
                pending[shard] = size
            elif shard in self.redo and files[shard] != self.run_id:
                rows = self.redo[shard]
                pending[shard] = size if rows is None else len(rows)
        return pending

    def read_files(self, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """The newest file of each shard that has one, as shards and tables, in order."""
        for shard, run_id in self.files().items():
            yield shard, read_parquet(self.storage, self.file_uri(shard, run_id), columns)

    def read_earlier(self, shard: int, plan: pa.Table) -> pa.Table | None:
        """The newest file of a shard by an earlier state of the run, None if there is none.

        Raises RunError if it does not have the rows of the plan.
        """
        if shard not in self._earlier_files:
            return None
        uri = self.file_uri(shard, self._earlier_files[shard])
        try:
            table = read_parquet(self.storage, uri)
        except MissingError:
            return None
        if not same_rows(table, plan):
            raise _changed(uri)
        return table

    @functools.cached_property
    def _earlier_files(self) -> dict[int, str]:
        """As `files`, for the earlier states. Listed once, because their files stay until `finish`,
        and looking for the file of each state would cost a request each."""
        return replace(self, ids=self.ids[:-1]).files()

    def publish(self, shard: int, plan: pa.Table, table: pa.Table) -> None:
        """Publish the rows of a shard. A file that another worker has published stays as it is.

        Raises RunError if the rows are not those of the plan, and LeaseError if another run has
        taken the place.
        """
        if not same_rows(table, plan):
            raise RunError(
                f"shard {shard} has {counted(table.num_rows, 'row')} that are not its "
                f"{plan.num_rows} planned images: this is a bug in MonkeyRay"
            )
        footer = {
            "run_id": self.run_id,
            "plan": _hash(plan),
            "rows": table.num_rows,
            "counts": {name: _count(table[name]) for name in COUNTED if name in table.column_names},
        }
        data = to_parquet(table, {_FOOTER: json.dumps(footer).encode()})
        uri = self.file_uri(shard)
        self.check()
        try:
            self.storage.create(uri, data)
        except ConflictError:
            return
        try:
            self.check()
        except LeaseError:
            if not self._counts(shard):
                self.storage.delete(uri)
            raise

    def _counts(self, shard: int) -> bool:
        """Whether a redo of this run has taken the place and may have counted the file of a shard:
        files of this run still count, and the shard has no newer one."""
        try:
            ids = json.loads(self.storage.read(self.place / "_run.json").data)["ids"]
            later = ids[ids.index(self.run_id) + 1 :]
        except (MissingError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return False
        newer = (self.file_uri(shard, run_id) for run_id in later)
        return not any(map(self.storage.exists, newer))

    # -- the end -------------------------------------------------------------------------------

    def reopen(self, lease: Lease) -> None:
        """Withdraw _SUCCESS, before anything changes."""
        lease.check()
        self.storage.delete(self.place / "_SUCCESS")

    def is_finished(self) -> bool:
        """Whether _SUCCESS is there, and of this state of the run."""
        try:
            stored = json.loads(self.storage.read(self.place / "_SUCCESS").data)
            return bool(stored["run_id"] == self.run_id)
        except (MissingError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def finish(self, lease: Lease) -> dict[str, Counter[str]]:
        """Compare the footers of all files with the plan, delete the files that they supersede, and
        write _SUCCESS.

        Returns the number of rows by value of each of COUNTED. Raises RunError if the files do not
        hold one row for each row of the plan, and LeaseError if another run has taken the place.
        """
        lease.check()
        self.check()
        entries = list(self.storage.list(self.place))
        files = self._newest(entries)
        totals = {name: Counter[str]() for name in COUNTED}
        rows = 0
        planned = ((shard, plan) for shard, plan in self.plan.read_all() if shard in files)
        with ThreadPoolExecutor(_READERS) as pool:
            footers = pool.map(self._read_footer, files, files.values())
            for (shard, plan), footer in zip(planned, footers, strict=True):
                if not footer or footer["plan"] != _hash(plan) or footer["rows"] != plan.num_rows:
                    raise _changed(self.file_uri(shard, files[shard]))
                rows += footer["rows"]
                for name, counts in footer["counts"].items():
                    totals[name].update(counts)
        if self._pending(files):
            raise RunError(
                f"{self.place} has {counted(rows, 'row')} for {self.rows} planned images: files "
                "were removed by another program; run the same command again"
            )
        # What was listed before this check is of no later run.
        lease.check()
        self.check()
        for entry in entries:
            name = self.place.relative(entry.uri) or ""
            match = FILE_NAME.fullmatch(name)
            # The lease's own is in use: it is being renewed.
            left = re.fullmatch(rf"\.(?!{LEASE}).*\.tmp", name)
            if left or (match and files.get(int(match[1])) != match[2]):
                self.storage.delete(entry.uri)
        summary = {
            "run_id": self.run_id,
            "planned": self.rows,
            "rows": rows,
            **totals,
            **self.notes,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        lease.check()
        self.storage.write(self.place / "_SUCCESS", json_bytes(summary))
        return totals

    def _read_footer(self, shard: int, run_id: str) -> dict[str, Any] | None:
        """A file's footer; None if this run did not write the file."""
        try:
            with self.storage.open(self.file_uri(shard, run_id)) as file:
                metadata = pq.read_metadata(file)
            footer = json.loads((metadata.metadata or {})[_FOOTER])
            whole = metadata.num_rows == footer["rows"] == sum(footer["counts"]["status"].values())
        except (MissingError, OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            return None
        return dict(footer) if whole and footer["run_id"] == run_id else None

    def save(self, lease: Lease) -> Run:
        """Write _run.json, after the plan and only over the version it was read from.

        Raises LeaseError if another run has taken the place.
        """
        stored = {
            "ids": self.ids,
            "identity": self.identity,
            "sizes": self.plan.sizes,
            "notes": self.notes,
            "redo": self.redo,
        }
        lease.check()
        place = self.place / "_run.json"
        try:
            if self.version is None:
                version = self.storage.create(place, json_bytes(stored))
            else:
                version = self.storage.replace(place, json_bytes(stored), self.version)
        except ConflictError:
            raise LeaseError(f"{self.place} was taken over by another run") from None
        return replace(self, version=version)


def _hash(plan: pa.Table) -> str:
    return sha256(row_keys(plan).tobytes())[:16]


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    counts = column.drop_null().value_counts().to_pylist()
    return {item["values"]: item["counts"] for item in counts}


def _changed(uri: str) -> RunError:
    return RunError(
        f"{uri} has rows that are not its planned images: it was changed by another program; "
        "delete it and run the same command again"
    )


def new_id() -> str:
    """A new run's id, eight hexadecimal digits."""
    return uuid.uuid4().hex[:8]


def plan_of(place: Location, storage: Storage, run_id: str, sizes: Iterable[int]) -> Plan:
    """The plan of a run in its place."""
    return Plan(place / "_plan" / run_id, storage, tuple(sizes))


def to_parquet(table: pa.Table, metadata: dict[bytes, bytes] | None = None) -> bytes:
    """A table as the bytes of a Parquet file, with a page index, from which viewers and engines
    find the pages they need. `metadata` is added to the file's footer."""
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", write_page_index=True, row_group_size=_GROUP_ROWS
    )
    return sink.getvalue()


def read_parquet(storage: Storage, uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, whole or some columns; of a remote one, only their bytes are fetched."""
    if columns is None or Location.of(uri).is_local:
        return pq.read_table(pa.BufferReader(storage.read(uri).data), columns=columns)
    with storage.open(uri) as file:
        return pq.read_table(file, columns=columns)
