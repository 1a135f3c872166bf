"""Makes the rows of one shard and publishes them as a file, wherever the worker runs."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from monkeyray.console import Say
from monkeyray.errors import MissingError
from monkeyray.runs.run import Run
from monkeyray.runs.workers.decode_process import Work
from monkeyray.runs.workers.shared_engine import SharedEngine
from monkeyray.runs.workers.supervisor import Packed, SupervisedDecoder

#: What workers spend their time on: waiting for images, decoding them, the network and its rows,
#: and files.
SPENT = ("fetch", "decode", "compute", "write")

#: How often a worker reports its progress.
_TELL_SECONDS = 1.0

#: Called with the rows so far, by status.
Progress = Callable[[dict[str, int]], None]

#: A shard's number and plan to the shard's rows, in tables that follow each other.
Maker = Callable[[int, pa.Table], Iterator[pa.Table]]

#: Of a process that computes in one thread, set before TensorFlow loads.
_ENVIRONMENT = {
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "GLOG_minloglevel": "2",
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    # Other programs may share the GPU, and TensorFlow would take all of its memory.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    # A retracing warning tells a user nothing.
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True)
class Job:
    """What a worker needs to make the shards of a run.

    `task`: scoring, rescoring or embedding. `work`: what its child does with images; or, if no
    image is opened, what makes the rows in the worker itself. `place`: the URI by which metrics
    name it, the run's if None.
    """

    task: str
    run: Run
    work: Work | Maker
    place: str | None = None


def start_engine(work: Work, decoders: int) -> SharedEngine:
    """An engine in this process, for as many workers with one child each."""
    os.environ.update(_ENVIRONMENT)
    return SharedEngine(work, decoders)


class ShardWorker:
    """Makes the shards of a job one after another, in a thread of this machine or an actor of Ray.

    `packed`: the job's work with images, None if it opens none. With images the worker only
    supervises a child and writes: what may crash happens in the child. `quiet` keeps off the
    terminal what libraries print in it. `tell` is called about once a second with the rows by
    status and the bytes read since its last call.

    Raises ClusterError if no child can be started.
    """

    def __init__(
        self,
        job: Job,
        packed: Packed | None,
        tell: Callable[[dict[str, int], int], None],
        quiet: bool = False,
    ) -> None:
        self._job = job
        self._tell = tell
        self._has_looked = False
        self._making = 0
        self._images: SupervisedDecoder | None = None
        if packed is not None:
            self._images = SupervisedDecoder(packed, _ENVIRONMENT, quiet)

    def make(self, shard: int) -> Counter[str]:
        """Make a shard, unless it is there; returns the nanoseconds that took, by SPENT.

        Raises a MonkeyRayError that ends the job, such as ConfigError if this worker does not see
        the run's place.
        """
        before, start = self._child_spent(), time.perf_counter_ns()
        self._making = 0
        if not self._has_looked:
            self._job.run.check_shared()
            self._has_looked = True
        self._make(shard)
        spent = self._child_spent()
        spent.subtract(before)
        # Everything but the rows themselves: the plan read, the file written, the fence looked at.
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

    def _make(self, shard: int) -> None:
        run = self._job.run
        try:
            plan = run.plan.read(shard)
        except MissingError:
            run.check()  # which tells why, if the place was overwritten
            raise
        # After a worker dies having published, another gets the same shard.
        if run.storage.exists(run.file_uri(shard)):
            return
        rows = run.redo.get(shard)
        earlier = None if rows is None else run.read_earlier(shard, plan)
        if rows is None or earlier is None:
            run.publish(shard, plan, self._rows(shard, plan))
            return
        made = self._rows(shard, plan.take(pa.array(rows))).cast(earlier.schema)
        order = np.arange(len(earlier))
        order[rows] = len(earlier) + np.arange(len(rows))
        run.publish(shard, plan, pa.concat_tables([earlier, made]).take(pa.array(order)))

    def _rows(self, shard: int, plan: pa.Table) -> pa.Table:
        start = time.perf_counter_ns()
        tables, told, untold, read = [], time.monotonic(), Counter[str](), 0
        for table in self._tables(shard, plan):
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

    def _tables(self, shard: int, plan: pa.Table) -> Iterator[pa.Table]:
        if self._images is not None:
            return self._images.run(plan)
        assert not isinstance(self._job.work, Work)
        return self._job.work(shard, plan)


def _bytes_read(table: pa.Table) -> int:
    """Bytes of a batch's readable images. An image with several boxes has several rows and is read
    once."""
    read = table.filter(table["sha256"].is_valid())
    sizes = dict(zip(read["uri"].to_pylist(), read["size_bytes"].to_pylist(), strict=True))
    return sum(sizes.values())


class Tally:
    """Rows by status and bytes read since the start, counted from any thread, for the progress line
    and the metrics."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._read = 0
        self._lock = threading.Lock()

    def add(self, rows: Mapping[str, int], read: int) -> None:
        """Count some rows and bytes."""
        with self._lock:
            self._rows.update(rows)
            self._read += read

    def all(self) -> tuple[dict[str, int], int]:
        """All rows and bytes so far."""
        with self._lock:
            return dict(self._rows), self._read


@contextlib.contextmanager
def every_second(tell: Callable[[], None], say: Say) -> Iterator[None]:
    """Call `tell` while something else goes on. The first time that it fails, `say` is called with
    the reason; it is still called each second, because the cause may pass."""
    stop = threading.Event()

    def repeat() -> None:
        said = False
        while not stop.wait(1):
            try:
                tell()
            except Exception as error:
                if not said:
                    reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
                    say(f"the job continues, but its progress cannot be shown ({reason})")
                said = True

    thread = threading.Thread(target=repeat, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
