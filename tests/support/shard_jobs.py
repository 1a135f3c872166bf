"""Runs and work of the tests of both pools: files that say what the decoder does with them."""

from __future__ import annotations

import pyarrow as pa

from monkeyray.images.decode import Limits
from monkeyray.runs.decode_process import Work
from monkeyray.runs.lease import Lease
from monkeyray.runs.place import create_run
from monkeyray.runs.plan import collect, shard_sizes
from monkeyray.runs.run import Run
from monkeyray.storage.store import Storage
from tests.runs.test_decode_process import SIZE, hooked_decode, make_mapper


def prepare(lease: Lease, plan: pa.Table, rows_per_file: int) -> Run:
    listing = collect([plan])
    assert listing is not None
    sizes = shard_sizes(listing.rows, 2, rows_per_file, smallest=8)
    return create_run(lease.place, lease, {}, listing, sizes)


def work(limits: Limits) -> Work:
    return Work(make_mapper, Storage(), SIZE, limits, 8, hooked_decode)
