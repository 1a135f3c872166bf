"""A run: a plan of images, cut into parts, each written as one whole Parquet file.

    place/part-00000.parquet …   a file for each part, there whole or not at all
    place/_run.json              what the run is (its identity) and how the plan is cut
    place/_plan/plan-00000.arrow the plan itself, sixteen parts in a file
    place/_SUCCESS               counts, written last

Side files never end in .parquet, because DuckDB's globs do not skip names with an underscore.
A part's name follows from its place in the plan, so a part that is made twice is one file.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from monkeyray.errors import MissingError, RunError
from monkeyray.storage import Storage, join

_PARTS_IN_PLAN_FILE = 16


@dataclass(frozen=True)
class Run:
    """A run in its place. `sizes`: the number of images in each part, in order."""

    uri: str
    storage: Storage
    identity: dict[str, Any]
    sizes: tuple[int, ...]
    plan_schema: pa.Schema
    #: What was seen while planning, such as files skipped, for the summary.
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Images in the plan."""
        return sum(self.sizes)

    def part_uri(self, part: int) -> str:
        """The Parquet file of a part."""
        return join(self.uri, f"part-{part:05d}.parquet")

    def pending(self) -> list[int]:
        """The parts that have no file yet, in order."""
        there = {entry.uri for entry in self.storage.list(self.uri)}
        return [part for part in range(len(self.sizes)) if self.part_uri(part) not in there]

    def read_plan(self, part: int) -> pa.Table:
        """The plan's rows of one part."""
        file = part // _PARTS_IN_PLAN_FILE
        data = self.storage.read(_plan_uri(self.uri, file)).data
        with pa.ipc.open_file(io.BytesIO(data)) as reader:
            return pa.Table.from_batches([reader.get_batch(part % _PARTS_IN_PLAN_FILE)])

    def write_part(self, part: int, table: pa.Table) -> None:
        """Publish the rows of a part. Raises RunError when they are not as many as planned."""
        if table.num_rows != self.sizes[part]:
            raise RunError(
                f"part {part} has {table.num_rows} rows for {self.sizes[part]} images: "
                "this is a bug in MonkeyRay"
            )
        self.storage.write(self.part_uri(part), to_parquet(table))

    def finish(self, count: str | None = None) -> dict[str, Counter[str]]:
        """Count what the files hold, compare it with the plan, and write _SUCCESS.

        Returns the rows by `status`, and by the column `count` of the rows that are ok.
        Raises RunError when the files do not hold one row for each image of the plan.
        """
        columns = ["status"] + ([count] if count else [])
        totals: dict[str, Counter[str]] = {name: Counter() for name in columns}
        for table in self.read_parts(columns):
            for name in columns:
                for item in table[name].value_counts().to_pylist():
                    if item["values"] is not None:
                        totals[name][item["values"]] += item["counts"]
        rows = totals["status"].total()
        if rows != self.rows:
            raise RunError(
                f"{self.uri} has {rows} rows for {self.rows} planned images: files were changed or "
                "removed by another program; run again with --overwrite"
            )
        summary = {"planned": self.rows, "rows": rows, **totals, **self.notes}
        self.storage.write(join(self.uri, "_SUCCESS"), _json(summary))
        return totals

    def read_parts(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The files that are there, as tables, in order."""
        pending = set(self.pending())
        parts = [part for part in range(len(self.sizes)) if part not in pending]

        def read(part: int) -> pa.Table:
            return read_parquet(self.storage, self.part_uri(part), columns)

        with ThreadPoolExecutor(8) as pool:
            # A window, so that memory holds a few files and not all.
            for start in range(0, len(parts), 32):
                yield from pool.map(read, parts[start : start + 32])


def open_run(uri: str, storage: Storage, identity: dict[str, Any]) -> Run | None:
    """The run in a place, to go on with; None where there is nothing yet.

    Raises RunError when the place holds a run of another identity, naming what differs, or files
    that belong to no run.
    """
    try:
        stored = json.loads(storage.read(join(uri, "_run.json")).data)
    except MissingError:
        strange = next(
            (e.uri for e in storage.list(uri) if not e.uri.startswith(join(uri, "_plan/"))), None
        )
        if strange is not None:
            raise RunError(
                f"{uri} is not empty and holds no run (it has {strange[len(uri) + 1 :]}): choose "
                "an empty place, or delete what is there with --overwrite"
            ) from None
        return None
    except ValueError as error:
        raise RunError(f"{uri}/_run.json is damaged: start anew with --overwrite") from error
    different = [
        f"{key} is {identity.get(key)!r}, was {stored['identity'].get(key)!r}"
        for key in sorted({*identity, *stored["identity"]})
        if identity.get(key) != stored["identity"].get(key)
    ]
    if different:
        raise RunError(
            f"{uri} holds another run: {'; '.join(different)}. Choose another place, or replace "
            "it with --overwrite"
        )
    schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(stored["plan_schema"])))
    return Run(uri, storage, identity, tuple(stored["sizes"]), schema, stored["notes"])


def create_run(
    uri: str,
    storage: Storage,
    identity: dict[str, Any],
    plan: pa.Table,
    sizes: list[int],
    notes: dict[str, Any] | None = None,
) -> Run:
    """Write a new run's plan, and _run.json last, so that a plan is there whole or not at all."""
    plan = plan.combine_chunks()
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    if starts[-1] != plan.num_rows:
        raise RunError(f"parts of {starts[-1]} images for a plan of {plan.num_rows}")
    for file, first in enumerate(range(0, len(sizes), _PARTS_IN_PLAN_FILE)):
        sink = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, plan.schema, options=options) as writer:
            for part in range(first, min(first + _PARTS_IN_PLAN_FILE, len(sizes))):
                piece = plan.slice(starts[part], sizes[part]).combine_chunks()
                # One part is one batch, an empty one too.
                writer.write_batch(
                    piece.to_batches()[0]
                    if piece.num_rows
                    else pa.RecordBatch.from_pylist([], plan.schema)
                )
        storage.write(_plan_uri(uri, file), sink.getvalue())
    run = Run(uri, storage, identity, tuple(sizes), plan.schema, notes or {})
    stored = {
        "identity": identity,
        "sizes": sizes,
        "plan_schema": plan.schema.serialize().to_pybytes().hex(),
        "notes": run.notes,
    }
    storage.write(join(uri, "_run.json"), _json(stored))
    return run


def cut(rows: int, workers: int, rows_per_file: int, smallest: int = 64) -> list[int]:
    """The sizes of parts for a number of images: large first, small towards the end.

    Guided self-scheduling (Polychronopoulos and Kuck 1987): each part is half of a worker's share
    of what is left, so that all workers end together and files stay few.

    >>> cut(1000, workers=2, rows_per_file=200)
    [200, 200, 150, 113, 85, 64, 64, 64, 60]
    """
    sizes = []
    while rows > 0:
        size = min(rows, rows_per_file, max(smallest, -(-rows // (2 * workers))))
        sizes.append(size)
        rows -= size
    return sizes


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_index=True)
    return sink.getvalue()


def read_parquet(storage: Storage, uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, whole or some columns."""
    return pq.read_table(io.BytesIO(storage.read(uri).data), columns=columns)


def fingerprint(value: Any) -> str:
    """SHA-256 of anything that JSON can write, in 64 hexadecimal digits."""
    return hashlib.sha256(_json(value)).hexdigest()


def _plan_uri(uri: str, file: int) -> str:
    return join(uri, "_plan", f"plan-{file:05d}.arrow")


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
