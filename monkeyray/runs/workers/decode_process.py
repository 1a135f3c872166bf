"""The child process that decodes images, and may crash on one; supervisor.py watches it from
outside.

The decoder and the network run here in one thread, so native code that crashes or hangs takes down
this process and nothing else. Shared memory records the open image, which identifies the fatal one.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa

from monkeyray.errors import DecodeError, MonkeyRayError
from monkeyray.images.decode import Decoded, Limits, decode
from monkeyray.runs.workers.fetch import (
    FETCH_THREADS,
    Batch,
    Decode,
    Outcomes,
    Refusals,
    attempt,
    batches,
    fetch,
)
from monkeyray.storage.store import Storage

#: Maps a batch to a finished table, in the same order. Its second argument decodes the batch.
Mapper = Callable[[Batch, Callable[[Batch], Any]], pa.Table]


@dataclass(frozen=True)
class Work:
    """What a child does. `make_mapper` is called in it, once."""

    make_mapper: Callable[[], Mapper]
    storage: Storage
    size: int
    limits: Limits
    batch_size: int
    decode: Decode = decode
    threads: int = FETCH_THREADS


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


def main(descriptor: int, memory: int, parent: int) -> None:
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
        server = _Server(pipe, work, OpenImage(memory))
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
    def __init__(self, pipe: Connection, work: Work, opened: OpenImage) -> None:
        self._pipe = pipe
        self._opened = opened
        self._work = work
        self._mapper: Mapper | None = None
        self._refusals = Refusals(work.storage, work.limits.max_refused)

    def prepare(self) -> None:
        """Load the network while the first images are still on their way."""
        # The first request raises it again, when somebody receives the error.
        self._opened.set(COMPUTING)
        with contextlib.suppress(Exception):
            self._mapper = self._work.make_mapper()
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
        readable: str | None,
        unproven: int,
    ) -> None:
        work = self._work
        self._refusals.recall(readable, unproven)
        if self._mapper is None:
            self._opened.set(COMPUTING)
            self._mapper = work.make_mapper()
            self._opened.set(None)

        spent = Counter[str]()
        clock = time.perf_counter_ns()

        def lap(what: str) -> None:
            nonlocal clock
            spent[what] += time.perf_counter_ns() - clock
            clock = time.perf_counter_ns()

        def decode(batch: Batch) -> Any:
            lap("compute")
            decoded = batch.decode(work.size, work.limits, work.decode, outcomes, self._opened.set)
            lap("decode")
            self._opened.set(COMPUTING)
            return decoded

        for batch in batches(
            plan,
            work.storage,
            work.limits,
            batch_size=work.batch_size,
            threads=work.threads,
            refusals=self._refusals,
            start=start,
        ):
            lap("fetch")
            self._opened.set(COMPUTING)
            table = self._mapper(batch, decode)
            self._opened.set(None)
            lap("compute")
            self._pipe.send(("spent", dict(spent)))
            spent.clear()
            self._pipe.send(("table", table))

    def _open(self, uri: str, how: Mapping[str, Any]) -> None:
        work = self._work
        item = fetch(work.storage, uri, None, work.limits)
        outcome: Decoded | DecodeError | None = None
        if item.data is not None:
            self._opened.set(0)
            outcome = attempt(work.decode, item.data, work.size, work.limits, how)
            self._opened.set(None)
        self._pipe.send(("outcome", outcome))


def die_with(parent: int) -> None:
    """Kill this process when the thread that started it ends, even if native code hangs."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


if __name__ == "__main__":
    # Under its own name, so that what is pickled here is found there.
    from monkeyray.runs.workers import decode_process as child

    child.main(*map(int, sys.argv[1:]))
