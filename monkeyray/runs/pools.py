"""Where the parts of a run are made: by a Ray cluster, or by this machine alone."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from monkeyray.console import Say
from monkeyray.runs.cluster import WorkerCount, connected, is_asked_for
from monkeyray.runs.machine_pool import MachinePool
from monkeyray.runs.parts import Job, Progress
from monkeyray.runs.ray_pool import RayPool
from monkeyray.storage.store import Storage


class Pool(Protocol):
    """Workers that make parts."""

    def crew(self, option: str, asked: int | None, gpu: bool) -> WorkerCount:
        """The workers: as asked with an option, or as many as there is room for.

        Raises ClusterError where there can never be as many.
        """

    def check_shared(
        self, storage: Storage, inputs: dict[str, str], outputs: dict[str, str]
    ) -> None:
        """Raise ConfigError for local paths, by their options, that not all workers see alike."""

    def run(
        self,
        job: Job,
        parts: list[int],
        crew: WorkerCount,
        say: Say,
        progress: Progress,
        images: int | None = None,
    ) -> Counter[str]:
        """Make the given parts of a run; returns the nanoseconds that workers spent, by SPENT.

        `say` is told where there is no room for the workers yet, `progress` now and then how far
        they are. `images`: how many there are to do, for metrics; None for none.
        Raises a MonkeyRayError for a fault that stopped the job; what is finished by then stays.
        """


@contextlib.contextmanager
def open_pool(address: str | None, gpu: bool, debug: bool = False) -> Iterator[Pool]:
    """The workers of a Ray cluster where one is meant, by its address or because it is there, and
    for GPUs, which Ray shares out; else this machine's own, which start in no time."""
    if gpu or is_asked_for(address):
        with connected(address, debug):
            yield RayPool()
    else:
        yield MachinePool(debug)
