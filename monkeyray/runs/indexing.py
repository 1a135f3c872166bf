"""Tar archives in stores are read for their indexes by a cluster, if one is asked for, so that one
machine's network does not limit listing."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from monkeyray.console import Say
from monkeyray.options import StoreConfig
from monkeyray.runs.cluster import RETRIES, connected, is_asked_for, result_of
from monkeyray.runs.workers.worker_count import wait_for_workers
from monkeyray.storage.archives import Index
from monkeyray.storage.backends.protocol import Entry
from monkeyray.storage.store import Storage


@contextlib.contextmanager
def indexed_on_cluster(store: StoreConfig, storage: Storage, say: Say) -> Iterator[Storage]:
    """The same storage. If a cluster is asked for, this process is connected to it, and its cores
    index the tar archives that the storage lists. `say` is called with the cluster, and while it
    has no room.

    Raises ClusterError if it cannot be reached.
    """
    if not is_asked_for(store.ray_address):
        yield storage
        return
    with connected(store.ray_address, store.debug, say):
        yield replace(storage, indexer=_ClusterIndexer(storage, say))


class _ClusterIndexer:
    """Indexes each archive in a task of its own."""

    #: More than one machine's network feeds; the results of as many wait for the first.
    at_once = 64

    def __init__(self, storage: Storage, say: Say) -> None:
        self._storage = storage
        self._say = say
        self._lock = threading.Lock()

    def __call__(self, archive: Entry) -> Index:
        with self._lock:
            task, storage = self._task
        index: Index = result_of(task.remote(archive, storage))
        return index

    @functools.cached_property
    def _task(self) -> tuple[Any, Any]:
        """The task and its storage, once there is an archive, and room for one."""
        import ray

        wait_for_workers(1, 0.0, self._say)
        return ray.remote(num_cpus=1, max_retries=RETRIES)(_read_index), ray.put(self._storage)


def _read_index(archive: Entry, storage: Storage) -> Index:
    return storage.read_index(archive)
