"""Images through a network and into files: the one pipeline of embedding and scoring.

Ray Data hands the parts of a run to a pool of actors. An actor's child fetches a part's images
ahead of use, decodes them, and maps them to rows in one and the same thread; the actor publishes
the part as one file. No pixels and no images pass through the object store, and a lost actor costs
a part at most.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.child import Watched, Work
from monkeyray.errors import (
    ClusterError,
    ConflictError,
    MissingError,
    MonkeyRayError,
    StorageError,
)
from monkeyray.lease import Lease
from monkeyray.runs import Run
from monkeyray.telemetry import Meter

#: How often a worker may die and be started again.
_MAX_RESTARTS = 20

#: What the time of workers goes into: waiting for images, decoding them, the network and its rows,
#: and files.
SPENT = ("fetch", "decode", "compute", "write")

#: How often a worker tells how far it is.
_TELL_SECONDS = 1.0


#: A part's number and plan to the part's rows, in tables that follow each other.
Maker = Callable[[int, pa.Table], Iterator[pa.Table]]


@dataclass(frozen=True)
class Job:
    """What an actor needs to work on a run's parts. `gpu`: its share of a GPU, 0 for none.

    `work`: what its child does with images; or, where none is opened, what makes the rows in the
    actor itself.
    """

    run: Run
    lease: Lease
    work: Work | Maker
    gpu: float = 0.0


class PartWorker:
    """The actor: numbers of parts in, files out. `job` is a reference to a Job.

    With images it only watches and writes: what may crash happens in its child.
    """

    def __init__(self, job: Any, tally: Any) -> None:
        import ray
        import ray.cloudpickle

        self._job: Job = ray.get(job)
        self._tally = tally
        work = self._job.work
        if isinstance(work, Work):
            images = Watched(work, worker_environment(), ray.cloudpickle.dumps)
            self._rows: Maker = lambda part, plan: images.run(plan)
            self._spent: Callable[[], Counter[str]] = images.spent
        else:
            self._rows = work
            self._spent = Counter

    def __call__(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Make the parts. What went wrong comes back as a pickled MonkeyRayError, because Ray Data
        drops the cause of an exception."""
        error, before, start = b"", self._spent(), time.perf_counter_ns()
        self._making = 0
        try:
            for part in parts["part"]:
                self._make(int(part))
        except MonkeyRayError as problem:
            error = pickle.dumps(problem)
        spent = self._spent()
        spent.subtract(before)
        # All but the rows themselves: the plan read, the file written, the lease looked at.
        spent["write"] = time.perf_counter_ns() - start - self._making
        count = len(parts["part"])
        return {
            "part": parts["part"],
            "error": [error] * count,
            **{name: [spent[name] // count] * count for name in SPENT},
        }

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
            if isinstance(self._job.work, Work):
                read += _bytes_read(table)
            if time.monotonic() - told >= _TELL_SECONDS:
                self._tally.add.remote(dict(untold), read)
                told, untold, read = time.monotonic(), Counter(), 0
        self._tally.add.remote(dict(untold), read)
        self._making += time.perf_counter_ns() - start
        return pa.concat_tables(tables)


def _bytes_read(table: pa.Table) -> int:
    """Bytes of a batch's images that could be read. An image with several boxes has several rows
    and is read once."""
    read = table.filter(table["sha256"].is_valid())
    sizes = dict(zip(read["uri"].to_pylist(), read["size_bytes"].to_pylist(), strict=True))
    return sum(sizes.values())


class Tally:
    """Rows done by status since the start and the bytes read for them, counted as they come, for
    the progress line and the metrics."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._read = 0

    def add(self, rows: dict[str, int], read: int) -> None:
        """Count some rows and bytes."""
        self._rows.update(rows)
        self._read += read

    def all(self) -> tuple[dict[str, int], int]:
        """All rows and bytes that were counted."""
        return dict(self._rows), self._read


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


def run_parts(
    job: Job,
    parts: list[int],
    *,
    workers: int,
    progress: Callable[[dict[str, int]], None],
    meter: Meter | None = None,
) -> Counter[str]:
    """Make the given parts of a run on a pool of Ray Data actors.

    `progress` is called with the rows by status now and then, and `meter` is told the same. Returns
    the nanoseconds that workers have spent, by SPENT. Raises a MonkeyRayError for a fault that
    stopped the job; what is finished by then stays.
    """
    import ray
    import ray.data

    spent = Counter[str]()
    if not parts:
        return spent
    workers = min(workers, len(parts))
    tally = ray.remote(num_cpus=0, max_restarts=-1)(Tally).remote()
    data = ray.data.from_arrow([pa.table({"part": [part]}) for part in parts])
    with warnings.catch_warnings():
        # Ray 2.60 deprecates options such as max_restarts here, and has no other place for it.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        done = data.map_batches(
            PartWorker,
            fn_constructor_args=(ray.put(job), tally),
            # A part at a time; a number, because Ray wants one where there are GPUs.
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            # Less than a core each, so that Ray Data's own tasks always find room.
            num_cpus=0.5,
            num_gpus=job.gpu,
            # Ray's default is without end, and a worker that cannot live would come back for ever.
            max_restarts=_MAX_RESTARTS,
        )

    def tell() -> None:
        # It may be starting again, after its node was lost.
        with contextlib.suppress(ray.exceptions.RayError):
            rows, read = ray.get(tally.all.remote(), timeout=10)
            progress(rows)
            if meter is not None:
                meter.images(rows, read)

    finished = 0
    try:
        with _every_second(tell):
            for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
                for error in batch["error"]:
                    if error:
                        raise pickle.loads(error)
                finished += len(batch["part"])
                for name in SPENT:
                    spent[name] += int(sum(batch[name]))
                if meter is not None:
                    meter.spent(spent)
        tell()
    except ray.exceptions.RayTaskError:
        raise  # a bug of ours, told as it is
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Ray gave the job up ({type(error).__name__}: {str(error).splitlines()[0][:200]}): "
            "nothing that is finished is lost, run the same command again"
        ) from error
    finally:
        ray.kill(tally)
        if meter is not None:
            meter.close()
    if finished != len(parts):
        raise StorageError(
            f"{finished} of {len(parts)} files were made: run the same command again"
        )
    return spent


@contextlib.contextmanager
def _every_second(tell: Callable[[], None]) -> Iterator[None]:
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
