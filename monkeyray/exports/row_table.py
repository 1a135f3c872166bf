"""Rows of predictions for DuckDB: a database in a temporary folder, and rows with their origins."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from monkeyray.console import Advance
from monkeyray.errors import RunError
from monkeyray.exports.deployments import Origin
from monkeyray.exports.job import Source
from monkeyray.images.boxes import BOX_FIELDS
from monkeyray.images.times import wall_times

_MICROSECOND = timedelta(microseconds=1)


@contextlib.contextmanager
def open_database(memory: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in a temporary folder. `memory`: what DuckDB may use before it spills, as
    `64MB`. One thread, so that sums do not depend on the machine."""
    with tempfile.TemporaryDirectory(prefix="monkeyray-") as folder:
        settings = {
            "memory_limit": memory,
            "threads": 1,
            "autoinstall_known_extensions": False,
            "temp_directory": str(Path(folder) / "spill"),
        }
        with duckdb.connect(str(Path(folder) / "rows.duckdb"), config=settings) as db:
            yield db


def located_tables(
    source: Source, columns: list[str], advance: Advance
) -> Iterator[tuple[pa.Table, list[Origin]]]:
    """The rows of predictions in order, some thousand at a time, with the origin of each.

    `columns`: with uri and captured_at. Adds `number`, the row's place in the predictions, int64;
    `taken`, the camera's local time corrected by its deployment's clock offset, timestamp[us] or
    null; `site`; and the columns of boxes, null if whole images were scored. Raises InputError for
    predictions that cannot be read, and RunError if there are more or fewer than planned.
    """
    boxes = source.predictions.box_columns
    first = 0
    for table in source.predictions.tables([*columns, *boxes], advance):
        rows = table.num_rows
        origins = source.origins(table)
        times, timed = wall_times(table["captured_at"])
        if source.deployments is not None:
            times = times + [each.clock_offset // _MICROSECOND for each in origins]
        made = {
            "number": pa.array(np.arange(first, first + rows)),
            "taken": pa.array(times, pa.timestamp("us"), mask=~timed),
            "site": pa.array([each.site for each in origins], pa.string()),
            **{name: pa.nulls(rows, kind) for name, kind in BOX_FIELDS if not boxes},
        }
        for name, column in made.items():
            table = table.append_column(name, column)
        first += rows
        yield table, origins
    planned = source.predictions.rows
    if first != planned:
        raise RunError(
            f"{source.predictions.uri} has {first} rows for {planned} planned images: it was "
            "changed by another program; run the scoring command again"
        )
