"""Runs of fifty images whose rows are made up."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from monkeyray.runs.lease import Lease
from monkeyray.runs.place import create_run
from monkeyray.runs.plan import Listing, collect
from monkeyray.runs.run import Run
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

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


def make_run(place: Path, lease: Lease, images: int = 50) -> Run:
    return create_run(
        Location.of(str(place)), lease, IDENTITY, listed(NAMES[:images]), [2] * (images // 2)
    )


def rows(plan: pa.Table, status: str = "ok") -> pa.Table:
    count = plan.num_rows
    columns = {
        "uri": plan["uri"],
        "status": [status] * count,
        "size_bytes": plan["size_bytes"],
        "etag_or_mtime": plan["version"],
    }
    return pa.table(columns)


def publish(run: Run, shard: int, status: str = "ok") -> None:
    plan = run.plan.read(shard)
    run.publish(shard, plan, rows(plan, status))
