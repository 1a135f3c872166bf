"""The child process that decodes images, and may crash on one; supervisor.py watches it from
outside.

On CPUs the decoder and the network run here in one thread, so native code that crashes or hangs
takes down this process and nothing else. With a GPU the network runs in the worker
(shared_engine.py); pixels and results pass through shared memory while the next images are decoded.
Shared memory also records the open image, which identifies the fatal one.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import os
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array, Floats
from monkeyray.errors import ClusterError, DecodeError, MonkeyRayError
from monkeyray.images.decode import Decoded, Limits, decode
from monkeyray.runs.child import die_with
from monkeyray.runs.workers.batches import (
    Batch,
    Decode,
    Outcomes,
    attempt,
    batches,
    how_to_decode,
)
from monkeyray.runs.workers.fetch import FETCH_THREADS, Readable, Refusals, fetch
from monkeyray.storage.store import Storage

if TYPE_CHECKING:
    from monkeyray.model.engines.choice import Engine

#: Maps a batch to a finished table, in the same order: the batch, the columns and places that
#: `Batch.decode` returns, and the features and logits of the images at these places.
Mapper = Callable[[Batch, dict[str, list[Any]], list[int], Floats, Floats], pa.Table]

#: Pixels to features and logits, see engines.Engine, available when the result is called.
Pending = Callable[[], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Work:
    """What a child does. `make_engine` is called once, in the process that computes.

    `views`: of each image. `ahead`: batches that may wait for the engine of the worker while the
    next one is decoded; if 0, the child has an engine of its own.
    """

    make_engine: Callable[[], Engine]
    mapper: Mapper
    storage: Storage
    size: int
    limits: Limits
    batch_size: int
    decode: Decode = decode
    threads: int = FETCH_THREADS
    views: int = 1
    ahead: int = 0


def no_engine() -> Engine:
    """In place of an engine, where nothing is computed."""
    raise ClusterError("this process only opens images")


#: In place of an image's position: the network is being loaded, or computes.
COMPUTING = -2


class OpenImage:
    """Which image a child has open, or whether it computes, and since when, in memory shared with
    its worker.

    A message per image would wake the worker as often, and cost time on the cores that compute.
    """

    #: The position in the plan (-1: none, or COMPUTING) and the monotonic clock in seconds.
    _FORMAT = struct.Struct("=qd")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, self._FORMAT.size)

    @classmethod
    def create(cls) -> OpenImage:
        """New shared memory, with no image open."""
        with tempfile.TemporaryFile() as file:
            file.write(cls._FORMAT.pack(-1, 0.0))
            file.flush()
            return cls(os.dup(file.fileno()))

    def set(self, position: int | None) -> None:
        """Note which image is opened now, or COMPUTING; None if neither."""
        what = -1 if position is None else position
        self._FORMAT.pack_into(self._memory, 0, what, time.monotonic())

    def position(self) -> int | None:
        """The image that is open, None if none is."""
        position: int = self._FORMAT.unpack_from(self._memory)[0]
        return None if position < 0 else position

    def longer_than(self, seconds: float, compute: float) -> bool:
        """Whether the same image has been open for longer, or the network has computed for longer
        than `compute` seconds."""
        position, since = seen = self._FORMAT.unpack_from(self._memory)
        limit = {-1: math.inf, COMPUTING: compute}.get(position, seconds)
        if time.monotonic() - since <= limit:
            return False
        # It may have been read while it was half written.
        time.sleep(0.01)
        return bool(self._FORMAT.unpack_from(self._memory) == seen)

    def close(self) -> None:
        """Release the memory."""
        self._memory.close()
        os.close(self.descriptor)


class Slots:
    """Batches on their way to the worker's engine and back, in memory that a child shares with its
    worker: pixels in each slot, which features and logits replace.

    `pixels`: uint8 (slots, batch_size, views, size, size, 3).
    """

    def __init__(self, descriptor: int, work: Work) -> None:
        shape = (work.ahead + 1, work.batch_size, work.views, work.size, work.size, 3)
        os.ftruncate(descriptor, math.prod(shape))
        # The memory lives as long as an array that uses it.
        self.pixels = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8).reshape(shape)

    def results(self, slot: int, shapes: Sequence[tuple[int, ...]]) -> list[Floats]:
        """Arrays of float32 of these shapes, one after the other in a slot."""
        free = self.pixels[slot].reshape(-1)
        found = []
        for shape in shapes:
            size = 4 * math.prod(shape)
            found.append(free[:size].view(np.float32).reshape(shape))
            free = free[size:]
        return found


def main(parent: int, descriptor: int, memory: int, slots: int = -1) -> None:
    """Serve one worker until it closes the pipe or is gone."""
    die_with(parent)
    # If memory runs out, the kernel should kill this process, not its worker.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    from PIL import Image

    # Our own limit on pixels, from the header, applies in place of Pillow's.
    Image.MAX_IMAGE_PIXELS = None
    pipe = Connection(descriptor)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        work: Work = pipe.recv()
        server = _Server(pipe, work, OpenImage(memory), slots)
        server.prepare()
        while True:
            request = pipe.recv()
            try:
                server.serve(*request)
            except MonkeyRayError as error:
                pipe.send(("error", error))
            except MemoryError:
                os._exit(1)  # the process is in an unknown state
            except Exception:
                pipe.send(("error", RuntimeError(traceback.format_exc())))
            else:
                pipe.send(("end", None))


class _Server:
    def __init__(self, pipe: Connection, work: Work, opened: OpenImage, slots: int) -> None:
        self._pipe = pipe
        self._opened = opened
        self._work = work
        self._slots = Slots(slots, work) if work.ahead else None
        self._engine: Engine | None = None
        self._refusals = Refusals(work.storage, work.limits.max_refused)

    def prepare(self) -> None:
        """Load the network while the first images are still on their way."""
        # The first request raises it again, when somebody receives the error.
        with contextlib.suppress(Exception):
            self._load()

    def _load(self) -> None:
        if self._engine is None and not self._work.ahead:
            self._opened.set(COMPUTING)
            self._engine = self._work.make_engine()
            self._opened.set(None)

    def serve(self, kind: str, *arguments: Any) -> None:
        self._opened.set(None)
        if kind == "run":
            self._run(*arguments)
        else:
            self._open(*arguments)

    def _run(
        self,
        plan: pa.Table,
        start: int,
        outcomes: Outcomes,
        readable: Readable | None,
        unproven: int,
    ) -> None:
        work = self._work
        self._refusals.recall(readable, unproven)
        self._load()
        spent = Counter[str]()
        clock = time.perf_counter_ns()

        def lap(what: str) -> None:
            nonlocal clock
            spent[what] += time.perf_counter_ns() - clock
            clock = time.perf_counter_ns()

        waiting: deque[tuple[Batch, dict[str, list[Any]], list[int], Pending]] = deque()

        def finish() -> None:
            batch, columns, good, pending = waiting.popleft()
            self._opened.set(COMPUTING)
            table = work.mapper(batch, columns, good, *pending())
            self._opened.set(None)
            lap("compute")
            self._pipe.send(("spent", dict(spent)))
            spent.clear()
            self._pipe.send(("table", table))

        for number, batch in enumerate(
            batches(
                plan,
                work.storage,
                work.limits,
                batch_size=work.batch_size,
                threads=work.threads,
                refusals=self._refusals,
                start=start,
            )
        ):
            lap("fetch")
            columns, pixels, good = batch.decode(
                work.size, work.limits, work.decode, outcomes, self._opened.set
            )
            lap("decode")
            waiting.append((batch, columns, good, self._compute(pixels, number)))
            if len(waiting) > work.ahead:
                finish()
        while waiting:
            finish()

    def _compute(self, pixels: Array, number: int) -> Pending:
        """Compute a batch, the run's `number`th, when asked for the result, or at once in the
        worker."""
        if self._slots is None:
            assert self._engine is not None
            return functools.partial(self._engine, pixels)
        slot = number % (self._work.ahead + 1)
        self._slots.pixels[slot, : len(pixels)] = pixels
        self._pipe.send(("compute", (slot, len(pixels))))
        return functools.partial(self._result, self._slots, slot)

    def _result(self, slots: Slots, slot: int) -> tuple[Floats, Floats]:
        # Batches are answered in order.
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        features, logits = slots.results(slot, answer)
        return features.copy(), logits.copy()

    def _open(self, row: pa.Table) -> None:
        work = self._work
        uri, version = row["uri"][0].as_py(), row["version"][0].as_py()
        item = fetch(work.storage, uri, None, work.limits, version)
        outcome: Decoded | DecodeError | None = None
        if item.data is not None:
            self._opened.set(0)
            (how,) = how_to_decode(row)
            outcome = attempt(work.decode, item.data, work.size, work.limits, how)
            self._opened.set(None)
        self._pipe.send(("outcome", outcome))


if __name__ == "__main__":
    # Under its own name, so that what is pickled here is found there.
    from monkeyray.runs.workers import decode_process as child

    child.main(*map(int, sys.argv[1:]))
