"""Index the tar archives of stores on the cluster, if one is asked for, so that the network of one
machine does not limit listing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace

from monkeyray.console import Say
from monkeyray.errors import ClusterError
from monkeyray.options import StoreConfig
from monkeyray.runs.cluster import RETRIES, connected, is_asked_for, result_of
from monkeyray.runs.workers.worker_count import choose_workers, wait_for_workers
from monkeyray.storage.archives import Index
from monkeyray.storage.backends.protocol import Entry
from monkeyray.storage.store import Storage

#: How long a call may outlast the job.
_STEP_SECONDS = 0.5


@contextlib.contextmanager
def indexed_on_cluster(
    store: StoreConfig, storage: Storage, say: Say, workers: int | None, gpu: bool
) -> Iterator[Storage]:
    """The same storage. If a cluster is asked for, this process is connected to it, and the
    cluster's cores index the large tar archives in stores. `say` is called with the address and
    size of the cluster, and every 30 s while the cluster has no room.

    Raises ClusterError if the cluster cannot be reached, or can never have as many `workers`.
    """
    if not is_asked_for(store.ray_address):
        yield storage
        return
    with connected(store.ray_address, store.debug, say):
        choose_workers("workers", workers, gpu)
        wait_for_workers(1, 0.0, say, cpus=1.0)
        with contextlib.closing(_ClusterIndexer(storage)) as indexer:
            yield replace(storage, indexer=indexer)


class _ClusterIndexer:
    """Indexes each archive in a task of its own."""

    #: More than the network of one machine can feed. Indexes that are done wait in memory for the
    #: first one.
    at_once = 64

    def __init__(self, storage: Storage) -> None:
        import ray

        remote = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")
        self._task = remote(_read_index)
        self._storage = ray.put(storage)
        self._running = threading.BoundedSemaphore(self.at_once)
        self._closed = threading.Event()

    def __call__(self, archive: Entry) -> Index:
        import ray

        with self._running:
            reference = None
            while reference is None or not ray.wait([reference], timeout=_STEP_SECONDS)[0]:
                if self._closed.is_set():
                    raise ClusterError("the job has ended")
                reference = reference or self._task.remote(archive, self._storage)
            index: Index = result_of(reference)
            return index

    def close(self) -> None:
        """End the calls that are still running in other threads; their results are not needed any
        more. After the disconnection, Ray would start a new cluster for them."""
        self._closed.set()
        for _ in range(self.at_once):
            self._running.acquire()
        self._running.release(self.at_once)


def _read_index(archive: Entry, storage: Storage) -> Index:
    return storage.read_index(archive)
