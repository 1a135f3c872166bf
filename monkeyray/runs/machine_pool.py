"""Workers of this machine alone: the pool that needs no Ray, and starts in no time.

A thread for each worker hands parts to its child and publishes what comes back. It is the same
child that a Ray cluster's actors watch, so a file comes out the same wherever it was made.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter

from monkeyray.console import Say
from monkeyray.errors import ClusterError
from monkeyray.runs.cluster import WorkerCount
from monkeyray.runs.decode_process import SupervisedDecoder, Work, pack
from monkeyray.runs.parts import Job, Progress, ShardWriter, Tally, every_second, worker_environment
from monkeyray.storage.store import Storage

#: For how long all threads together may take to notice that they are to stop.
_STOP_SECONDS = 10.0


class MachinePool:
    """A pool of processes, as many at most as this machine has CPU cores for. `debug` shows what
    they print."""

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug

    def crew(self, option: str, asked: int | None, gpu: bool) -> WorkerCount:
        """The workers: as asked, or one for each core that this process may use.

        Raises ClusterError when there are fewer cores, and for GPUs, which need Ray.
        """
        from joblib.externals.loky import cpu_count

        if gpu:
            raise ClusterError("GPUs are shared out by Ray: open a pool of a Ray cluster for them")
        cores = cpu_count()  # within affinity and the limits of a container
        if asked is not None and asked > cores:
            raise ClusterError(
                f"--{option} {asked} needs {asked} CPUs, this machine gives {cores}: ask for "
                f"{cores} or fewer"
            )
        return WorkerCount(asked or cores)

    def check_shared(
        self, storage: Storage, inputs: dict[str, str], outputs: dict[str, str]
    ) -> None:
        """Nothing: one machine sees its own paths."""

    def run(
        self,
        job: Job,
        parts: list[int],
        crew: WorkerCount,
        say: Say,
        progress: Progress,
        images: int | None = None,
    ) -> Counter[str]:
        """Make the given parts, of images; see Pool."""
        assert isinstance(job.work, Work)  # rows without images are many, and made on Ray
        spent, tally, packed = Counter[str](), Tally(), pack(job.work)
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[Counter[str] | BaseException] = queue.SimpleQueue()
        for part in parts:
            todo.put(part)
        stop = threading.Event()
        makers: list[ShardWriter] = []

        def work() -> None:
            maker = None
            try:
                # Here, so that all start at the same time.
                child = SupervisedDecoder(packed, worker_environment(), quiet=not self._debug)
                maker = ShardWriter(job, child, tally.add)
                makers.append(maker)
                while not stop.is_set():
                    done.put(maker.make(todo.get_nowait()))
            except queue.Empty:
                pass
            except BaseException as problem:  # told where there is somebody to tell
                done.put(problem)
            finally:
                if maker is not None:
                    maker.close()

        workers = min(crew.workers, len(parts))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
        try:
            for thread in threads:
                thread.start()
            with every_second(lambda: progress(tally.all()[0])):
                for _ in parts:
                    result = done.get()
                    if isinstance(result, BaseException):
                        raise result
                    spent.update(result)
            progress(tally.all()[0])
        finally:
            stop.set()
            for maker in list(makers):
                maker.stop()
            end = time.monotonic() + _STOP_SECONDS
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, end - time.monotonic()))
        return spent
