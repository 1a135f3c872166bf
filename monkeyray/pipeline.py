"""Images through a network and into files: the one pipeline of embedding and scoring.

Ray Data hands the parts of a run to a pool of actors. An actor fetches a part's images ahead of
use, decodes them, maps them to rows in its own single thread, and publishes the part as one file.
No pixels and no images pass through the object store, and a lost actor costs a part at most.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.decode import Decoded, Limits, decode, sha256
from monkeyray.errors import DecodeError, MonkeyRayError, ObjectError, StorageError
from monkeyray.runs import Run
from monkeyray.storage import Storage, is_local

#: What every row tells of its image, whatever else is added to it.
IMAGE_FIELDS = [
    ("uri", pa.string()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("captured_at", pa.string()),
    ("size_bytes", pa.int64()),
    ("etag_or_mtime", pa.string()),
    ("sha256", pa.string()),
]

#: Fetched images and the plan's rows to a finished table of the run's schema, in the same order.
Mapper = Callable[["Batch"], pa.Table]


@dataclass(frozen=True)
class Fetched:
    """An image's bytes, or the status and reason why there are none."""

    data: bytes | None
    version: str | None
    status: str = "ok"
    error: str | None = None


@dataclass(frozen=True)
class Batch:
    """Some rows of the plan with what was fetched for them, in the same order."""

    plan: pa.Table
    fetched: list[Fetched]

    def decode(
        self, size: int, limits: Limits
    ) -> tuple[dict[str, list[Any]], np.ndarray[Any, Any], list[int]]:
        """Decode the batch.

        Returns the columns of IMAGE_FIELDS, the pixels of the images that could be read, uint8 of
        shape (n, size, size, 3), and their positions in the batch.
        """
        columns: dict[str, list[Any]] = {name: [] for name, _ in IMAGE_FIELDS}
        pixels, good = [], []
        plan = zip(
            self.plan["uri"].to_pylist(),
            self.plan["size_bytes"].to_pylist(),
            self.plan["version"].to_pylist(),
            self.fetched,
            strict=True,
        )
        for position, (uri, planned_size, planned_version, item) in enumerate(plan):
            status, error, image = item.status, item.error, None
            if item.data is not None:
                try:
                    image = decode(item.data, size, limits)
                    pixels.append(image.pixels)
                    good.append(position)
                except DecodeError as failure:
                    status, error = failure.kind, str(failure)
            row = _describe(image) | {
                "uri": uri,
                "status": status,
                "error": error,
                "size_bytes": planned_size if item.data is None else len(item.data),
                "etag_or_mtime": item.version or planned_version,
                "sha256": None if item.data is None else sha256(item.data),
            }
            for name, value in row.items():
                columns[name].append(value)
        stack = np.stack(pixels) if pixels else np.empty((0, size, size, 3), np.uint8)
        return columns, stack, good


def _describe(image: Decoded | None) -> dict[str, Any]:
    if image is None:
        return {"width": None, "height": None, "captured_at": None}
    return {"width": image.width, "height": image.height, "captured_at": image.captured_at}


def fetch(storage: Storage, uri: str, size_bytes: int | None, limits: Limits) -> Fetched:
    """One image's bytes; what the store says for certain of this one becomes its status.

    Raises StorageError for faults, which say nothing of the image.
    """
    if size_bytes is not None and size_bytes > limits.max_bytes:
        reason = f"{size_bytes} bytes, the limit is {limits.max_bytes}"
        return Fetched(None, None, "too_large", reason)
    try:
        blob = storage.read(uri)
    except ObjectError as error:
        # The URI is in its column; the reason names no path.
        return Fetched(None, None, error.kind, f"the store says that it is {error.kind}")
    return Fetched(blob.data, blob.version)


def batches(
    plan: pa.Table, storage: Storage, limits: Limits, batch_size: int, threads: int
) -> Iterator[Batch]:
    """The plan's rows in batches, their images fetched ahead by `threads`, in order."""
    uris, sizes = plan["uri"].to_pylist(), plan["size_bytes"].to_pylist()
    if threads <= 1:
        for start in range(0, len(uris), batch_size):
            rows = range(start, min(start + batch_size, len(uris)))
            fetched = [fetch(storage, uris[i], sizes[i], limits) for i in rows]
            yield Batch(plan.slice(start, len(rows)), fetched)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Any] = deque()
        done: list[Fetched] = []
        start = 0
        for uri, size in zip(uris, sizes, strict=True):
            ahead.append(pool.submit(fetch, storage, uri, size, limits))
            if len(ahead) > batch_size + threads:
                done.append(ahead.popleft().result())
            if len(done) == batch_size:
                yield Batch(plan.slice(start, batch_size), done)
                start, done = start + batch_size, []
        while ahead:
            done.append(ahead.popleft().result())
            if len(done) == batch_size or not ahead:
                yield Batch(plan.slice(start, len(done)), done)
                start, done = start + len(done), []


@dataclass(frozen=True)
class Job:
    """What an actor needs to work on a run's parts."""

    run: Run
    make_mapper: Callable[[], Mapper]
    limits: Limits
    batch_size: int
    threads: int


class PartWorker:
    """The actor: numbers of parts in, files out. `job` is a reference to a Job."""

    def __init__(self, job: Any, tally: Any) -> None:
        import ray

        self._job: Job = ray.get(job)
        self._tally = tally
        self._mapper = self._job.make_mapper()

    def __call__(self, parts: dict[str, Any]) -> dict[str, Any]:
        for part in parts["part"]:
            self._write(int(part))
        return {"part": parts["part"]}

    def _write(self, part: int) -> None:
        job = self._job
        plan = job.run.read_plan(part)
        threads = 1 if is_local(plan["uri"][0].as_py()) else job.threads
        tables = []
        for batch in batches(plan, job.run.storage, job.limits, job.batch_size, threads):
            tables.append(self._mapper(batch))
            statuses = Counter(tables[-1]["status"].to_pylist())
            self._tally.add.remote(dict(statuses))
        job.run.write_part(part, pa.concat_tables(tables))


class Tally:
    """Rows done by status since the start, counted as they come, for the progress line."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()

    def add(self, rows: dict[str, int]) -> None:
        """Count some rows."""
        self._rows.update(rows)

    def rows(self) -> dict[str, int]:
        """All that was counted."""
        return dict(self._rows)


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a process that computes in `threads` threads, set before TensorFlow loads."""
    return {
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "GLOG_minloglevel": "2",
        "OMP_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
        # A retracing warning tells a user nothing.
        "PYTHONWARNINGS": "ignore",
    }


def run_parts(
    job: Job,
    parts: list[int],
    *,
    workers: int,
    gpu: bool,
    progress: Callable[[dict[str, int]], None],
) -> None:
    """Make the given parts of a run on a pool of Ray Data actors.

    `progress` is called with the rows by status now and then. Raises a MonkeyRayError for a fault
    that stopped the job; what is finished by then stays.
    """
    import ray
    import ray.data

    if not parts:
        return
    workers = min(workers, len(parts))
    tally = ray.remote(num_cpus=0)(Tally).remote()
    data = ray.data.from_arrow([pa.table({"part": [part]}) for part in parts])
    done = data.map_batches(
        PartWorker,
        fn_constructor_args=(ray.put(job), tally),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        # Less than a core each, so that Ray Data's own tasks always find room.
        num_cpus=0.5,
        num_gpus=1 if gpu else 0,
        runtime_env={"env_vars": worker_environment(os.cpu_count() or 1 if gpu else 1)},
    )
    finished = 0
    try:
        with _watch(tally, progress):
            for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
                finished += len(batch["part"])
        progress(ray.get(tally.rows.remote()))
    except Exception as error:
        raise cause(error) from error
    finally:
        ray.kill(tally)
    if finished != len(parts):
        raise StorageError(
            f"{finished} of {len(parts)} files were made: run the same command again"
        )


@contextlib.contextmanager
def _watch(tally: Any, progress: Callable[[dict[str, int]], None]) -> Iterator[None]:
    """Tell the progress every second while something else goes on."""
    import ray

    stop = threading.Event()

    def tell() -> None:
        while not stop.wait(1):
            progress(ray.get(tally.rows.remote()))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def cause(error: BaseException) -> BaseException:
    """The MonkeyRayError inside Ray's wrappings, or the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MonkeyRayError):
            return seen
        inner = getattr(seen, "cause", None)
        seen = inner if isinstance(inner, BaseException) else seen.__cause__
    return error
