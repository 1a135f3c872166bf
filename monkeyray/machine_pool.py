"""Workers of this machine alone: the pool that needs no Ray, and starts in no time.

A thread for each worker hands parts to its child and publishes what comes back. It is the same
child that a Ray cluster's actors watch, so a file comes out the same wherever it was made.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter

from monkeyray.child import Watched, Work
from monkeyray.cluster import Crew
from monkeyray.errors import ClusterError
from monkeyray.logs import Say
from monkeyray.parts import Job, PartMaker, Progress, Tally, every_second, worker_environment
from monkeyray.storage import Storage

#: For how long the threads may take to notice that they are to stop.
_STOP_SECONDS = 10.0


class MachinePool:
    """A pool of processes, as many at most as this machine has CPU cores for. `debug` shows what
    they print."""

    def __init__(self, debug: bool = False) -> None:
        self._debug = debug

    def crew(self, option: str, asked: int | None, gpu: bool) -> Crew:
        """The workers: as asked, or one for each core that this process may use.

        Raises ClusterError when there are fewer cores, and for GPUs, which need Ray.
        """
        import joblib

        if gpu:
            raise ClusterError("GPUs are shared out by Ray: open a pool of a Ray cluster for them")
        cores = joblib.cpu_count()  # within affinity and the limits of a container
        if asked is not None and asked > cores:
            raise ClusterError(
                f"--{option} {asked} needs {asked} CPUs, this machine gives {cores}: ask for "
                f"{cores} or fewer"
            )
        return Crew(asked or cores)

    def check_shared(
        self, storage: Storage, inputs: dict[str, str], outputs: dict[str, str]
    ) -> None:
        """Nothing: one machine sees its own paths."""

    def run(
        self,
        job: Job,
        parts: list[int],
        crew: Crew,
        say: Say,
        progress: Progress,
        images: int | None = None,
    ) -> Counter[str]:
        """Make the given parts; see Pool."""
        spent, tally = Counter[str](), Tally()
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[Counter[str] | BaseException] = queue.SimpleQueue()
        for part in parts:
            todo.put(part)
        stop = threading.Event()

        def work(maker: PartMaker) -> None:
            try:
                while not stop.is_set():
                    done.put(maker.make(todo.get_nowait()))
            except queue.Empty:
                pass
            except BaseException as problem:  # told where there is somebody to tell
                done.put(problem)
            finally:
                maker.close()

        def child() -> Watched | None:
            if not isinstance(job.work, Work):
                return None
            return Watched(job.work, worker_environment(), quiet=not self._debug)

        workers = min(crew.workers, len(parts))
        makers = [PartMaker(job, child(), tally.add) for _ in range(workers)]
        threads = [threading.Thread(target=work, args=[maker], daemon=True) for maker in makers]
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
            for maker, thread in zip(makers, threads, strict=True):
                maker.stop()
                if thread.ident is not None:
                    thread.join(_STOP_SECONDS)
        return spent
