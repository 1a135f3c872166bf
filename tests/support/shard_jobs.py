"""Runs and work for decode processes and pools. A file's content says what decoding it does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array, Floats
from monkeyray.errors import DecodeError
from monkeyray.images.decode import Decoded, Limits
from monkeyray.model.engines.choice import Engine
from monkeyray.runs.lease import Lease
from monkeyray.runs.place import create_run
from monkeyray.runs.plan import collect, shard_sizes
from monkeyray.runs.run import Run
from monkeyray.runs.workers.batches import IMAGE_FIELDS, Batch
from monkeyray.runs.workers.decode_process import Work
from monkeyray.storage.store import Storage

SIZE = 4
_decoded: list[bytes] = []


def hooked_decode(data: bytes, size: int, limits: Limits) -> Decoded:
    """A decoder that does what the file says."""
    if data.startswith(b"crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if data.startswith(b"hang"):
        time.sleep(3600)
    if data.startswith(b"once"):  # dies of it with others, never alone
        marker = Path(data.decode().split()[1])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGABRT)
    if data.startswith(b"slow"):
        time.sleep(0.2)
    if data.startswith(b"until"):  # every worker's first file takes no time
        _decoded.append(data)
        while len(_decoded) > 8 and not Path(data.decode().split()[1]).exists():
            time.sleep(0.05)
    if data.startswith(b"broken"):
        raise DecodeError("unreadable", "as it says")
    return Decoded(np.full((1, size, size, 3), data[-1], np.uint8), 7, 5, None)


def make_engine() -> Engine:
    """An engine whose features are the first byte of each image."""

    def engine(pixels: Array) -> tuple[Floats, Floats]:
        return pixels[:, :, 0, 0, :1].astype(np.float32), np.zeros((len(pixels), 2), np.float32)

    return engine


def mapper(
    batch: Batch, columns: dict[str, Any], good: list[int], features: Floats, logits: Floats
) -> pa.Table:
    table = pa.table(columns, schema=pa.schema(IMAGE_FIELDS))
    assert logits.shape == (len(good), 2)
    seen: list[int | None] = [None] * table.num_rows
    for place, image in zip(good, features, strict=True):
        seen[place] = int(image[0, 0])
    columns = {"seen": seen, "pid": [os.getpid()] * len(seen), "worker": [os.getppid()] * len(seen)}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.int64()))
    return table


def dying_engine() -> Engine:
    return lambda pixels: os._exit(3)


def hanging_engine() -> Engine:
    return lambda pixels: time.sleep(3600)  # type: ignore[return-value]


def hanging_start() -> Engine:
    time.sleep(3600)
    raise AssertionError


def bug_engine() -> Engine:
    def engine(pixels: Array) -> tuple[Floats, Floats]:
        raise ValueError("a bug of ours")

    return engine


def plan_of(folder: Path, contents: dict[str, bytes]) -> pa.Table:
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    rows = len(contents)
    return pa.table(
        {
            "uri": [str(folder / name) for name in contents],
            "size_bytes": pa.nulls(rows, pa.int64()),
            "version": pa.nulls(rows, pa.string()),
        }
    )


def prepare(lease: Lease, plan: pa.Table, rows_per_file: int) -> Run:
    listing = collect([plan])
    assert listing is not None
    sizes = shard_sizes(listing.rows, 2, rows_per_file, smallest=8)
    return create_run(lease.place, lease, {}, listing, sizes)


def work(limits: Limits, engine: Callable[[], Engine] = make_engine) -> Work:
    return Work(engine, mapper, Storage(), SIZE, limits, 8, hooked_decode)
