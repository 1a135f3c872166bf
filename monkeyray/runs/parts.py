"""The parts of a run: what makes the rows of one and publishes them as a file, wherever it runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from monkeyray.errors import ConflictError, MissingError
from monkeyray.runs.decode_process import SupervisedDecoder, Work
from monkeyray.runs.lease import Lease
from monkeyray.runs.run import Run

#: What the time of workers goes into: waiting for images, decoding them, the network and its rows,
#: and files.
SPENT = ("fetch", "decode", "compute", "write")

#: How often a worker tells how far it is.
_TELL_SECONDS = 1.0

#: Told the rows by status so far.
Progress = Callable[[dict[str, int]], None]

#: A part's number and plan to the part's rows, in tables that follow each other.
Maker = Callable[[int, pa.Table], Iterator[pa.Table]]


@dataclass(frozen=True)
class Job:
    """What a worker needs to work on a run's parts.

    `task`: scoring, rescoring or embedding. `work`: what its child does with images; or, where none
    is opened, what makes the rows in the worker itself. `place`: the URI by which metrics name it,
    the run's where that is None.
    """

    task: str
    run: Run
    lease: Lease
    work: Work | Maker
    place: str | None = None


class ShardWriter:
    """Makes parts of a job one after another. `images`: the child for the job's work with images,
    None where there is none. `tell` is called now and then with the rows by status and the bytes
    read since it was called last.

    With images it only watches and writes: what may crash happens in the child.
    """

    def __init__(
        self,
        job: Job,
        images: SupervisedDecoder | None,
        tell: Callable[[dict[str, int], int], None],
    ) -> None:
        self._job = job
        self._images = images
        self._tell = tell

    def make(self, part: int) -> Counter[str]:
        """Make a part, unless it is there; returns the nanoseconds that took, by SPENT.

        Raises a MonkeyRayError that ends the job.
        """
        before, start = self._child_spent(), time.perf_counter_ns()
        self._making = 0
        self._make(part)
        spent = self._child_spent()
        spent.subtract(before)
        # All but the rows themselves: the plan read, the file written, the lease looked at.
        spent["write"] = time.perf_counter_ns() - start - self._making
        return spent

    def stop(self) -> None:
        """Kill the child, from any thread, so that `make` ends with an error soon."""
        if self._images is not None:
            self._images.stop()

    def close(self) -> None:
        """End the child."""
        if self._images is not None:
            self._images.close()

    def _child_spent(self) -> Counter[str]:
        return Counter() if self._images is None else self._images.spent()

    def _make(self, part: int) -> None:
        run, lease = self._job.run, self._job.lease
        try:
            plan = run.plan.read(part)
        except MissingError:
            lease.check()  # which tells why, where the place was overwritten
            raise
        held = run.read_to_redo(part)
        if held is None:
            # A worker that died after it had published is followed by one with the same part.
            if not run.storage.exists(run.part_uri(part)):
                run.publish(part, plan, self._open(part, plan), lease)
            return
        table, version, rows = held
        if not len(rows):
            return
        made = self._open(part, plan.take(pa.array(rows)))
        order = np.arange(len(table))
        order[rows] = len(table) + np.arange(len(rows))
        both = pa.concat_tables([table, made.cast(table.schema)])
        try:
            run.publish_again(part, plan, both.take(pa.array(order)), version, lease)
        except ConflictError:
            # Another one made it meanwhile: then nothing is left to do.
            now = run.read_to_redo(part)
            if now is None or len(now[2]):
                raise

    def _open(self, part: int, plan: pa.Table) -> pa.Table:
        start = time.perf_counter_ns()
        tables, told, untold, read = [], time.monotonic(), Counter[str](), 0
        for table in self._rows(part, plan):
            tables.append(table)
            untold.update(table["status"].to_pylist())
            if self._images is not None:
                read += _bytes_read(table)
            if time.monotonic() - told >= _TELL_SECONDS:
                self._tell(dict(untold), read)
                told, untold, read = time.monotonic(), Counter(), 0
        self._tell(dict(untold), read)
        self._making += time.perf_counter_ns() - start
        return pa.concat_tables(tables)

    def _rows(self, part: int, plan: pa.Table) -> Iterator[pa.Table]:
        if self._images is not None:
            return self._images.run(plan)
        assert not isinstance(self._job.work, Work)
        return self._job.work(part, plan)


class Tally:
    """Rows done by status since the start and the bytes read for them, counted as they come from
    any thread, for the progress line and the metrics."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._read = 0
        self._lock = threading.Lock()

    def add(self, rows: dict[str, int], read: int) -> None:
        """Count some rows and bytes."""
        with self._lock:
            self._rows.update(rows)
            self._read += read

    def all(self) -> tuple[dict[str, int], int]:
        """All rows and bytes that were counted."""
        with self._lock:
            return dict(self._rows), self._read


@contextlib.contextmanager
def every_second(tell: Callable[[], None]) -> Iterator[None]:
    """Tell the progress while something else goes on."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(1):
            tell()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bytes_read(table: pa.Table) -> int:
    """Bytes of a batch's images that could be read. An image with several boxes has several rows
    and is read once."""
    read = table.filter(table["sha256"].is_valid())
    sizes = dict(zip(read["uri"].to_pylist(), read["size_bytes"].to_pylist(), strict=True))
    return sum(sizes.values())


def worker_environment() -> dict[str, str]:
    """Environment of a child, which computes in one thread, set before TensorFlow loads."""
    return {
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "GLOG_minloglevel": "2",
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        # Several may share a GPU, and the first would take all of its memory.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        # A retracing warning tells a user nothing.
        "PYTHONWARNINGS": "ignore",
    }
