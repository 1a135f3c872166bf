"""The workers of a run: local processes, which start at once, or actors on a Ray cluster of any
size.

Each worker is a ShardWorker (worker.py), whose child fetches a shard's images ahead of use, decodes
them and maps them to rows in one thread, so a shard's file is the same wherever it was made. On one
machine each runs in a thread, on Ray each is an actor that Ray Data hands shards to. An actor with
a GPU has a ShardWorker for each of its cores, and one engine for all of them. Neither pixels nor
images pass through Ray's object store, and a lost worker costs the shards that it was making.
"""

from __future__ import annotations

import contextlib
import pickle
import queue
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa

from monkeyray.console import Reporter, Say
from monkeyray.errors import ClusterError, MonkeyRayError, StorageError
from monkeyray.options import StoreConfig
from monkeyray.runs.cluster import connected, is_asked_for, quiet_data
from monkeyray.runs.lease import Lease
from monkeyray.runs.processes import map_in_processes
from monkeyray.runs.workers.decode_process import Work
from monkeyray.runs.workers.supervisor import pack
from monkeyray.runs.workers.telemetry import Meter
from monkeyray.runs.workers.worker import (
    SPENT,
    Job,
    Progress,
    ShardWorker,
    Tally,
    every_second,
    start_engine,
)
from monkeyray.runs.workers.worker_count import (
    WorkerCount,
    choose_worker_count,
    usable_cores,
    wait_for_workers,
)

#: How long all threads together may take to stop.
_STOP_SECONDS = 10.0

#: How often a dead actor is restarted.
_MAX_RESTARTS = 20


class Pool(Protocol):
    """Workers that make shards."""

    def count(self, option: str, asked: int | None, gpu: bool) -> WorkerCount:
        """The workers: as many as asked for with an option, or as many as there is room for.

        Raises ClusterError if there can never be as many.
        """

    def run(
        self,
        job: Job,
        shards: list[int],
        workers: WorkerCount,
        say: Say,
        progress: Progress,
        images: int | None = None,
    ) -> Counter[str]:
        """Make the given shards of a run; returns the nanoseconds that workers spent, by SPENT.

        `say` is called while there is no room for the workers yet, `progress` about once a second.
        `images`: how many there are to do, for metrics; None for no metrics.
        Raises a MonkeyRayError for a fault that stopped the job; finished files stay.
        """


@contextlib.contextmanager
def open_pool(store: StoreConfig, gpu: bool, say: Say) -> Iterator[Pool]:
    """The workers of a Ray cluster if one is asked for, and of a Ray of our own for GPUs, which it
    shares out; else this machine's own. `say` is called with the cluster."""
    if gpu or is_asked_for(store.ray_address):
        with connected(store.ray_address, store.debug, say):
            yield RayPool()
    else:
        yield MachinePool(store.debug)


def run_pending(
    job: Job, lease: Lease, pool: Pool, workers: WorkerCount, reporter: Reporter
) -> tuple[int, Counter[str]]:
    """Make the rows of a job's run that are missing.

    Returns how many images that took, and the workers' nanoseconds by SPENT.
    """
    run = job.run
    pending = run.pending()
    todo = sum(pending.values())
    if not pending:
        return 0, Counter()
    if todo < run.rows:
        reporter.say(f"resuming: {run.rows - todo} of {run.rows} images are done")
    run.reopen(lease)
    with reporter.bar(job.task) as bar:
        spent = pool.run(
            job, list(pending), workers, reporter.say, lambda rows: bar(todo, rows), images=todo
        )
    return todo, spent


class MachinePool:
    """Processes of this machine, no more than it has CPU cores for. `debug` shows what they
    print."""

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug

    def count(self, option: str, asked: int | None, gpu: bool) -> WorkerCount:
        """The workers: as asked, or one for each core that this process may use.

        Raises ClusterError if there are fewer cores, and for GPUs, which need Ray.
        """
        if gpu:
            raise ClusterError("Ray shares GPUs out: open a pool of a Ray cluster for them")
        cores = usable_cores()
        if asked is not None and asked > cores:
            raise ClusterError(
                f"--{option} {asked} needs {asked} CPUs, but this process may use {cores}: ask for "
                f"{cores} or fewer"
            )
        return WorkerCount(asked or cores)

    def run(
        self,
        job: Job,
        shards: list[int],
        workers: WorkerCount,
        say: Say,
        progress: Progress,
        images: int | None = None,
    ) -> Counter[str]:
        """Make the given shards; see Pool."""
        if not isinstance(job.work, Work):
            return self._map(job, shards, workers, say, progress)
        spent, tally, packed = Counter[str](), Tally(), pack(job.work)
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[Counter[str] | BaseException] = queue.SimpleQueue()
        for shard in shards:
            todo.put(shard)
        stop = threading.Event()
        started: list[ShardWorker] = []

        def work() -> None:
            worker = None
            try:
                # Here, so that all start at the same time.
                worker = ShardWorker(job, packed, tally.add, quiet=not self._debug)
                started.append(worker)
                while not stop.is_set():
                    done.put(worker.make(todo.get_nowait()))
            except queue.Empty:
                pass
            except BaseException as problem:  # raised where somebody can handle it
                done.put(problem)
            finally:
                if worker is not None:
                    worker.close()

        count = min(workers.workers, len(shards))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            with every_second(lambda: progress(tally.all()[0]), say):
                for _ in shards:
                    result = done.get()
                    if isinstance(result, BaseException):
                        raise result
                    spent.update(result)
            progress(tally.all()[0])
        finally:
            stop.set()
            for worker in list(started):
                worker.stop()
            end = time.monotonic() + _STOP_SECONDS
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, end - time.monotonic()))
        return spent

    def _map(
        self, job: Job, shards: list[int], workers: WorkerCount, say: Say, progress: Progress
    ) -> Counter[str]:
        """Make shards without images, whose rows take the interpreter's time."""
        spent, tally = Counter[str](), Tally()
        made = map_in_processes(_make, shards, job, workers.workers, self._debug)
        with contextlib.closing(made), every_second(lambda: progress(tally.all()[0]), say):
            for _, result in made:
                if isinstance(result, BaseException):
                    raise result
                spent.update(result[0])
                tally.add(result[1], 0)
        progress(tally.all()[0])
        return spent


def _make(shard: int, job: Job) -> tuple[Counter[str], dict[str, int]]:
    """Make a shard of a job without images, with one thread; returns its ShardWorker's
    nanoseconds, and its rows by status."""
    from threadpoolctl import threadpool_limits

    tally = Tally()
    with threadpool_limits(1, "blas"):
        spent = ShardWorker(job, None, tally.add).make(shard)
    return spent, tally.all()[0]


class RayPool:
    """Actors of the Ray cluster that this process is connected to."""

    def count(self, option: str, asked: int | None, gpu: bool) -> WorkerCount:
        """The workers: as asked, or as many as the cluster has cores or GPUs for."""
        return choose_worker_count(option, asked, gpu)

    def run(
        self,
        job: Job,
        shards: list[int],
        workers: WorkerCount,
        say: Say,
        progress: Progress,
        images: int | None = None,
    ) -> Counter[str]:
        """Make the given shards; see Pool. `images` gives the job metrics in Ray."""
        if not shards:
            return Counter()
        wait_for_workers(1, workers.gpu, say, workers.cpus)
        meter = None if images is None else Meter(job.task, job.place or str(job.run.place), images)
        try:
            with quiet_data():
                return _run_on_ray(job, shards, workers, say, progress, meter)
        finally:
            if meter is not None:
                meter.close()


class ShardActor:
    """ShardWorkers in an actor: shards in, errors and times out. `job` is a reference to a Job.

    With `decoders`, that many shards are made at the same time, with the engine of this process.
    """

    def __init__(self, job: Any, tally: Any, decoders: int) -> None:
        import ray
        import ray.cloudpickle

        job = ray.get(job)
        packed = None
        if isinstance(job.work, Work):
            engine = start_engine(job.work, decoders) if decoders else None
            packed = pack(job.work, ray.cloudpickle.dumps, engine)
        self._idle: queue.SimpleQueue[ShardWorker] = queue.SimpleQueue()
        for _ in range(max(1, decoders)):
            self._idle.put(ShardWorker(job, packed, tally.add.remote))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards. A MonkeyRayError comes back pickled, because Ray Data drops the cause of
        an exception."""
        error, spent = b"", Counter[str]()
        worker = self._idle.get()
        try:
            for shard in batch["shard"]:
                spent.update(worker.make(int(shard)))
        except MonkeyRayError as problem:
            error = pickle.dumps(problem)
        finally:
            self._idle.put(worker)
        count = len(batch["shard"])
        return {
            "shard": batch["shard"],
            "error": [error] * count,
            **{name: [spent[name] // count] * count for name in SPENT},
        }


def _run_on_ray(
    job: Job,
    shards: list[int],
    workers: WorkerCount,
    say: Say,
    progress: Progress,
    meter: Meter | None,
) -> Counter[str]:
    import ray
    import ray.data

    spent, at_once = Counter[str](), max(1, workers.decoders)
    useful = -(-len(shards) // at_once)
    size = min(workers.workers, useful)
    tally = ray.remote(num_cpus=0, max_restarts=-1)(Tally).remote()
    data = ray.data.from_arrow([pa.table({"shard": [shard]}) for shard in shards])
    with warnings.catch_warnings():
        # Ray 2.60 deprecates options such as max_restarts here, and has no other place for it.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        done = data.map_batches(
            ShardActor,
            fn_constructor_args=(ray.put(job), tally, workers.decoders),
            # A shard at a time; a number, because Ray wants one for GPUs.
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                # Shards are made as soon as the first has room, and by what joins the cluster.
                min_size=1,
                initial_size=size,
                max_size=useful if workers.grows else size,
                max_concurrent_calls_per_actor=at_once,
                max_tasks_in_flight_per_actor=2 * at_once,
                enable_true_multi_threading=True,
            ),
            num_cpus=workers.cpus,
            num_gpus=workers.gpu,
            # Ray restarts without end by default, even an actor that always dies. It does not count
            # restarts because of a node that was drained, as spot nodes are.
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
        with every_second(tell, say):
            for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
                for error in batch["error"]:
                    if error:
                        raise pickle.loads(error)
                finished += len(batch["shard"])
                for name in SPENT:
                    spent[name] += int(sum(batch[name]))
                if meter is not None:
                    meter.spent(spent)
        tell()
    except ray.exceptions.RayTaskError:
        raise  # a bug of ours, shown as it is
    except ray.exceptions.RayError as error:
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise ClusterError(
            f"Ray aborted the job ({type(error).__name__}: {reason}). "
            "Finished files are kept; run the same command again to resume"
        ) from error
    finally:
        ray.kill(tally)
    if finished != len(shards):
        raise StorageError(
            f"{finished} of {len(shards)} files were made: run the same command again"
        )
    return spent
