"""Workers of a Ray cluster: the pool that takes a run to any number of machines.

Ray Data hands the parts of a run to a pool of actors. An actor's child fetches a part's images
ahead of use, decodes them, and maps them to rows in one and the same thread; the actor publishes
the part as one file. No pixels and no images pass through the object store, and a lost actor costs
a part at most.
"""

from __future__ import annotations

import contextlib
import pickle
import warnings
from collections import Counter
from typing import Any

import pyarrow as pa

from monkeyray.console import Say
from monkeyray.errors import ClusterError, MonkeyRayError, StorageError
from monkeyray.runs.cluster import (
    WorkerCount,
    check_shared,
    choose_worker_count,
    quiet_data,
    wait_for_workers,
)
from monkeyray.runs.decode_process import SupervisedDecoder, Work, pack
from monkeyray.runs.parts import (
    SPENT,
    Job,
    Progress,
    ShardWriter,
    Tally,
    every_second,
    worker_environment,
)
from monkeyray.runs.telemetry import Meter
from monkeyray.storage.store import Storage

#: How often a worker may die and be started again.
_MAX_RESTARTS = 20


class ShardWorker:
    """The actor: numbers of parts in, files out. `job` is a reference to a Job."""

    def __init__(self, job: Any, tally: Any) -> None:
        import ray
        import ray.cloudpickle

        job = ray.get(job)
        images = None
        if isinstance(job.work, Work):
            images = SupervisedDecoder(pack(job.work, ray.cloudpickle.dumps), worker_environment())
        self._maker = ShardWriter(job, images, tally.add.remote)

    def __call__(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Make the parts. What went wrong comes back as a pickled MonkeyRayError, because Ray Data
        drops the cause of an exception."""
        error, spent = b"", Counter[str]()
        try:
            for part in parts["part"]:
                spent.update(self._maker.make(int(part)))
        except MonkeyRayError as problem:
            error = pickle.dumps(problem)
        count = len(parts["part"])
        return {
            "part": parts["part"],
            "error": [error] * count,
            **{name: [spent[name] // count] * count for name in SPENT},
        }


class RayPool:
    """A pool on the Ray cluster that this process is connected to."""

    def __init__(self) -> None:
        quiet_data()

    def crew(self, option: str, asked: int | None, gpu: bool) -> WorkerCount:
        """The workers: as asked, or as many as the cluster has cores or GPUs for."""
        return choose_worker_count(option, asked, gpu)

    def check_shared(
        self, storage: Storage, inputs: dict[str, str], outputs: dict[str, str]
    ) -> None:
        """Refuse local paths that not all nodes of the cluster see alike."""
        check_shared(storage, inputs, outputs)

    def run(
        self,
        job: Job,
        parts: list[int],
        crew: WorkerCount,
        say: Say,
        progress: Progress,
        images: int | None = None,
    ) -> Counter[str]:
        """Make the given parts; see Pool. `images` gives the job metrics in Ray."""
        if not parts:
            return Counter()
        workers = min(crew.workers, len(parts))
        wait_for_workers(workers, crew.gpu, say)
        meter = None if images is None else Meter(job.task, job.place or job.run.uri, images)
        try:
            return _run(job, parts, WorkerCount(workers, crew.gpu), progress, meter)
        finally:
            if meter is not None:
                meter.close()


def _run(
    job: Job, parts: list[int], crew: WorkerCount, progress: Progress, meter: Meter | None
) -> Counter[str]:
    import ray
    import ray.data

    spent = Counter[str]()
    tally = ray.remote(num_cpus=0, max_restarts=-1)(Tally).remote()
    data = ray.data.from_arrow([pa.table({"part": [part]}) for part in parts])
    with warnings.catch_warnings():
        # Ray 2.60 deprecates options such as max_restarts here, and has no other place for it.
        warnings.filterwarnings("ignore", message=".*ray_remote_args")
        done = data.map_batches(
            ShardWorker,
            fn_constructor_args=(ray.put(job), tally),
            # A part at a time; a number, because Ray wants one where there are GPUs.
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=crew.workers, max_tasks_in_flight_per_actor=2),
            # Less than a core each, so that Ray Data's own tasks always find room.
            num_cpus=0.5,
            num_gpus=crew.gpu,
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
        with every_second(tell):
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
    if finished != len(parts):
        raise StorageError(
            f"{finished} of {len(parts)} files were made: run the same command again"
        )
    return spent
