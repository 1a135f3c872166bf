"""Runs and work of the tests of both pools: files that say what the decoder does with them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from test_child import SIZE, hooked_decode, make_mapper

from monkeyray.batches import Batch
from monkeyray.child import Work
from monkeyray.decode import Limits
from monkeyray.lease import Lease
from monkeyray.plans import collect, cut
from monkeyray.runs import Run, create_run
from monkeyray.storage import Storage


def dated_mapper() -> Callable[[Batch, Callable[[Batch], Any]], pa.Table]:
    inner = make_mapper()

    def mapper(batch: Batch, decode: Callable[[Batch], Any]) -> pa.Table:
        table = inner(batch, decode)
        now = pa.array([datetime.now(UTC)] * table.num_rows, pa.timestamp("us", "UTC"))
        return table.append_column("predicted_at", now)

    return mapper


def prepare(lease: Lease, plan: pa.Table, rows_per_file: int) -> Run:
    listing = collect([plan])
    assert listing is not None
    sizes = cut(listing.rows, 2, rows_per_file, smallest=8)
    return create_run(lease.place, lease, {}, listing, sizes)


def work(limits: Limits) -> Work:
    return Work(dated_mapper, Storage(), SIZE, limits, 8, hooked_decode)
