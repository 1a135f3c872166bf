"""The plan of a run: which images, each once, cut into shards, kept beside the output.

    place/_plan/<name>/plan-00000.arrow …    sixteen shards in a file, each one record batch

A plan is written as it is listed. Memory holds 16 bytes for each image, not its name.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from monkeyray.arrays import Flags, Hashes, Ints
from monkeyray.errors import RunError
from monkeyray.images.boxes import has_boxes
from monkeyray.storage.keys import first_of_each, string_keys
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

SHARDS_PER_FILE = 16

_ZSTD = pa.ipc.IpcWriteOptions(compression="zstd")


@dataclass(frozen=True)
class Plan:
    """A plan in its own folder, which is written once. `sizes`: the number of rows of each shard,
    in order."""

    folder: Location
    storage: Storage
    sizes: tuple[int, ...]

    def read(self, shard: int) -> pa.Table:
        """The rows of one shard. Like the functions below, raises RunError for a damaged plan."""
        with _open_file(self, shard // SHARDS_PER_FILE) as reader:
            return pa.Table.from_batches([reader.get_batch(shard % SHARDS_PER_FILE)])

    def schema(self) -> pa.Schema:
        """The columns of the plan."""
        return self.read(0).schema

    def read_all(self) -> Iterator[tuple[int, pa.Table]]:
        """All shards in order, each with its number."""
        for file in range(-(-len(self.sizes) // SHARDS_PER_FILE)):
            with _open_file(self, file) as reader:
                for index in range(reader.num_record_batches):
                    batch = reader.get_batch(index)
                    yield file * SHARDS_PER_FILE + index, pa.Table.from_batches([batch])

    def write_all(self, shards: Iterable[pa.Table]) -> None:
        """Write all shards, given in order."""
        waiting: list[pa.Table] = []
        file = 0
        for shard in shards:
            waiting.append(shard)
            if len(waiting) == SHARDS_PER_FILE:
                self._write_file(file, waiting)
                file, waiting = file + 1, []
        if waiting:
            self._write_file(file, waiting)

    def _write_file(self, file: int, shards: list[pa.Table]) -> None:
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, shards[0].schema, options=_ZSTD) as writer:
            for shard in shards:
                # One shard is one batch, an empty one too.
                (batch,) = shard.combine_chunks().to_batches() or [
                    pa.RecordBatch.from_pylist([], shard.schema)
                ]
                writer.write_batch(batch)
        self.storage.write(_file_uri(self, file), sink.getvalue())


@contextlib.contextmanager
def _open_file(plan: Plan, file: int) -> Iterator[Any]:
    uri = _file_uri(plan, file)
    data = plan.storage.read(uri).data
    try:
        with pa.ipc.open_file(pa.py_buffer(data)) as reader:
            shards = min(SHARDS_PER_FILE, len(plan.sizes) - file * SHARDS_PER_FILE)
            if reader.num_record_batches != shards:
                raise pa.ArrowInvalid(f"{reader.num_record_batches} of {shards} shards")
            yield reader
    except (pa.ArrowException, OSError) as error:
        raise RunError(
            f"{uri} is damaged ({str(error).splitlines()[0]}): choose another place, or start over "
            "with --overwrite"
        ) from error


def _file_uri(plan: Plan, file: int) -> Location:
    return plan.folder / f"plan-{file:05d}.arrow"


@dataclass(frozen=True)
class Listing:
    """Images that were listed, or their boxes, in a file that disappears with this object.

    `rows`: how many, each URI or each of its boxes once. `repeated`: how many more repeat one that
    was listed before. `keys`: 128 bits for each row, uint64 (rows, 2).
    """

    rows: int
    repeated: int
    schema: pa.Schema
    keys: Hashes
    _file: IO[bytes]
    _first: Flags
    #: The position of each batch's first row in the file, int64 (batches,).
    _starts: Ints

    @functools.cached_property
    def _batches(self) -> Any:
        return pa.ipc.open_file(self._file)

    @functools.cached_property
    def _before(self) -> Ints:
        """How many of the rows come before each batch, int64 (batches,)."""
        counts = np.add.reduceat(self._first, self._starts, dtype=np.int64)
        return np.cumsum(counts) - counts

    def _table(self, number: int) -> pa.Table:
        batch = self._batches.get_batch(number)
        start = self._starts[number]
        keep = self._first[start : start + batch.num_rows]
        return pa.Table.from_batches([batch.filter(pa.array(keep))])

    def tables(self) -> Iterator[pa.Table]:
        """The rows in order, in tables of some thousand."""
        return map(self._table, range(len(self._starts)))

    def take(self, rows: Ints) -> pa.Table:
        """The rows at some positions, int (n,), in ascending order."""
        batches = np.searchsorted(self._before, rows, "right") - 1
        found = [self.schema.empty_table()]
        for number in np.unique(batches).tolist():
            its = rows[batches == number] - self._before[number]
            found.append(self._table(number).take(pa.array(its)))
        return pa.concat_tables(found)

    def only(self, rows: Flags) -> Listing:
        """Some of the rows."""
        first = self._first.copy()
        first[np.flatnonzero(first)[~rows]] = False
        return replace(self, rows=int(rows.sum()), keys=self.keys[rows], _first=first)

    def shards(self, sizes: Iterable[int]) -> Iterator[pa.Table]:
        """The rows in tables of the given sizes."""
        tables = self.tables()
        ahead: pa.Table = self.schema.empty_table()
        for size in sizes:
            pieces, needed = [], size
            while needed > 0:
                if not ahead.num_rows:
                    ahead = next(tables)
                pieces.append(ahead.slice(0, needed))
                needed -= pieces[-1].num_rows
                ahead = ahead.slice(pieces[-1].num_rows)
            yield pa.concat_tables(pieces or [self.schema.empty_table()])


def collect(tables: Iterable[pa.Table], limit: int | None = None) -> Listing | None:
    """Collect what is listed, each URI once, at most `limit`; None if nothing is listed."""
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the Listing keeps it
    writer: Any = None
    keys: list[Hashes] = []
    starts: list[int] = []
    schema, rows = None, 0
    for table in tables:
        if not table.num_rows:
            continue
        if writer is None:
            schema = table.schema
            writer = pa.ipc.new_file(file, schema, options=_ZSTD)
        table = table.cast(schema)
        keys.append(row_keys(table))
        for batch in filter(len, table.to_batches()):
            writer.write_batch(batch)
            starts.append(rows)
            rows += batch.num_rows
        # Without the repeated ones there may be fewer than asked for.
        if limit is not None and rows >= limit <= first_of_each(np.concatenate(keys)).sum():
            break
    if writer is None:
        return None
    writer.close()
    all_keys = np.concatenate(keys)
    first = first_of_each(all_keys)
    kept = np.flatnonzero(first)
    if limit is not None and len(kept) > limit:
        first[kept[limit:]] = False
        kept = kept[:limit]
    repeated = int(kept[-1]) + 1 - len(kept) if limit is not None else rows - len(kept)
    return Listing(len(kept), repeated, schema, all_keys[kept], file, first, np.array(starts))


def row_keys(table: pa.Table) -> Hashes:
    """128 bits that identify each row of a plan by its URI and, with boxes, its box: uint64
    (n, 2)."""
    if not has_boxes(table.column_names):
        return string_keys(table["uri"])
    box = pc.fill_null(table["detection"].cast(pa.string()), "")
    return string_keys(pc.binary_join_element_wise(table["uri"], box, "\0"))


def same_rows(table: pa.Table, plan: pa.Table) -> bool:
    """Whether a table has the rows of a plan, in the same order."""
    names = ["uri", "detection"] if has_boxes(plan.column_names) else ["uri"]
    return set(names) <= set(table.column_names) and all(
        table[name].equals(plan[name]) for name in names
    )


def shard_sizes(rows: int, workers: int, rows_per_file: int, smallest: int = 64) -> list[int]:
    """The sizes of shards for a number of images: large first, small towards the end.

    Guided self-scheduling (Polychronopoulos and Kuck 1987): each shard is half of a worker's share
    of what is left, so that all workers end together and files stay few.

    >>> shard_sizes(1000, workers=2, rows_per_file=200)
    [200, 200, 150, 113, 85, 64, 64, 64, 60]
    """
    sizes = []
    while rows > 0:
        size = min(rows, rows_per_file, max(smallest, -(-rows // (2 * workers))))
        sizes.append(size)
        rows -= size
    return sizes
