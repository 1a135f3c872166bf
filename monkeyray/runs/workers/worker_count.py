"""How many workers a machine or a Ray cluster has room for, and waiting for that room."""

from __future__ import annotations

import time
from dataclasses import dataclass

from monkeyray.console import Say, counted
from monkeyray.errors import ClusterError

#: Maximum number of workers that share a GPU; each decodes on its own core.
_ON_A_GPU = 8

_WAIT_LINE_SECONDS = 30.0


@dataclass(frozen=True)
class WorkerCount:
    """How many workers decode and run a network, and the share of a GPU of each, 0 to 1."""

    workers: int
    gpu: float = 0.0


@dataclass(frozen=True)
class Capacity:
    """What the nodes of a cluster have now, and the maximum that an autoscaler may reach."""

    cpus: int
    gpus: int
    max_cpus: int
    max_gpus: int
    nodes: int


def usable_cores() -> int:
    """The number of CPU cores that this process may use, by its affinity and container limits."""
    from joblib.externals.loky import cpu_count

    return int(cpu_count())


def capacity() -> Capacity:
    """The CPUs, GPUs and nodes of the connected cluster."""
    import ray

    now = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    most = _autoscaler_maximum()
    cpus, gpus = int(now.get("CPU", 0)), int(now.get("GPU", 0))
    return Capacity(
        cpus, gpus, max(cpus, int(most.get("CPU", 0))), max(gpus, int(most.get("GPU", 0))), nodes
    )


def _autoscaler_maximum() -> dict[str, float]:
    """The resources that the autoscaler may grow to, empty without one.

    Ray Data calls the same function. It is not public, so its absence is not an error.
    """
    try:
        from ray._private.state import state

        return dict(state.get_max_resources_from_cluster_config() or {})
    except Exception:
        return {}


def choose_worker_count(option: str, asked: int | None, gpu: bool) -> WorkerCount:
    """The workers for images: as many as asked for, or one per CPU core.

    With `gpu` several share each GPU, because a core decodes far less than a GPU computes; by
    default as many as there are cores, at most 8 per GPU.

    Raises ClusterError if the cluster can never have as many.
    """
    if not gpu:
        return WorkerCount(choose_workers(option, asked, gpu=False))
    has = capacity()
    now, most = max(1, has.gpus), has.max_gpus * _ON_A_GPU
    choose_workers(option, None, gpu=True)  # raises if there are none
    if asked is not None and asked > most:
        raise ClusterError(
            f"--{option} {asked}: at most {_ON_A_GPU} workers share a GPU, and this Ray cluster "
            f"can have {has.max_gpus} GPUs: ask for {most} or fewer"
        )
    workers = asked or now * min(_ON_A_GPU, max(1, has.cpus // now))
    gpus = max(now, -(-workers // _ON_A_GPU))
    return WorkerCount(workers, 1 / -(-workers // gpus))


def choose_workers(option: str, asked: int | None, gpu: bool) -> int:
    """The number of workers: as many as asked for, or one per GPU or CPU core.

    Raises ClusterError if the cluster can never have as many.
    """
    has = capacity()
    kind, now, most = ("GPU", has.gpus, has.max_gpus) if gpu else ("CPU", has.cpus, has.max_cpus)
    if most < 1:
        raise ClusterError(
            f"this Ray cluster has no {kind}s and can add none: "
            + ("omit --gpu, or use a cluster with GPUs" if gpu else "use another cluster")
        )
    if asked is not None and asked > most:
        raise ClusterError(
            f"--{option} {asked} needs {asked} {kind}s, but this Ray cluster can have at most "
            f"{most}: "
            f"ask for {most} or fewer"
        )
    return asked if asked is not None else max(1, now)


def wait_for_workers(workers: int, gpu: float, say: Say) -> None:
    """Wait until the cluster has room for the workers, each with the fraction `gpu` of a GPU, and
    `say` so every 30 s.

    The room is requested as a placement group, so that an autoscaler starts nodes for it.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    bundle = {"CPU": 0.5, **({"GPU": gpu} if gpu else {})}
    group = placement_group([bundle] * workers, strategy="SPREAD")
    try:
        start = time.monotonic()
        ready = group.ready()
        while not ray.wait([ready], timeout=_WAIT_LINE_SECONDS)[0]:
            waited = time.monotonic() - start
            kind = "GPU" if gpu else "CPU"
            free = ray.available_resources().get(kind, 0)
            say(
                f"waiting for room for {counted(workers, 'worker')}; free {kind}s: {free:g} "
                f"({waited:.0f} s so far)",
                "waiting",
                workers=workers,
                waiting_for=kind,
                free=free,
                elapsed_seconds=round(waited, 1),
            )
    finally:
        remove_placement_group(group)
