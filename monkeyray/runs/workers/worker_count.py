"""How many workers a machine or a Ray cluster has room for, and waiting for that room."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from monkeyray.console import Say, counted
from monkeyray.errors import ClusterError

_WAIT_LINE_SECONDS = 30.0


@dataclass(frozen=True)
class WorkerCount:
    """How many workers decode and run a network, and what each of them uses: GPUs, 0 or 1, and CPU
    cores.

    Without a GPU a worker is one process. With one it is an engine and `decoders` more processes.
    `grows`: a cluster may have room for more of them later, which are then used too.
    """

    workers: int
    gpu: float = 0.0
    cpus: float = 1.0
    grows: bool = False

    @property
    def decoders(self) -> int:
        """Decode processes of a worker beside its engine, one for each core; 0 without a GPU."""
        return max(1, int(self.cpus)) if self.gpu else 0

    @property
    def processes(self) -> int:
        """How many processes decode, and make a shard each at the same time."""
        return self.workers * max(1, self.decoders)


@dataclass(frozen=True)
class Capacity:
    """What the nodes of a cluster have now, and the maximum that an autoscaler may reach.

    `gpu_cpus`: CPUs for each GPU, on the kind of node with GPUs that has the fewest.
    """

    cpus: int
    gpus: int
    max_cpus: int
    max_gpus: int
    nodes: int
    gpu_cpus: float = 1.0


def usable_cores() -> int:
    """The number of CPU cores that this process may use, by its affinity and container limits."""
    from joblib.externals.loky import cpu_count

    return int(cpu_count())


def capacity() -> Capacity:
    """The CPUs, GPUs and nodes of the connected cluster."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most, kinds = _autoscaler_nodes()
    shares = [kind.get("CPU", 0) / kind["GPU"] for kind in [*nodes, *kinds] if kind.get("GPU")]
    now = ray.cluster_resources()
    cpus, gpus = int(now.get("CPU", 0)), int(now.get("GPU", 0))
    return Capacity(
        cpus,
        gpus,
        max(cpus, int(most.get("CPU", 0))),
        max(gpus, int(most.get("GPU", 0))),
        len(nodes),
        min(shares, default=1.0),
    )


def _autoscaler_nodes() -> tuple[dict[str, float], list[dict[str, float]]]:
    """The resources that the autoscaler may grow to, and those of each kind of node that it may
    start; empty without one.

    Ray Data calls the same functions. They are not public, so their absence is not an error.
    """
    try:
        from ray._private.state import state

        groups = state.get_cluster_config().node_group_configs
        kinds = [dict(group.resources) for group in groups if group.max_count]
        return dict(state.get_max_resources_from_cluster_config()), kinds
    except Exception:
        return {}, []


def choose_worker_count(option: str, asked: int | None, gpu: bool) -> WorkerCount:
    """The workers for images: as many as asked for, or one for each GPU or else CPU core.

    With `gpu` each gets the cores that its node has for each GPU.

    Raises ClusterError if the cluster can never have as many.
    """
    workers, grows = choose_workers(option, asked, gpu), asked is None
    if not gpu:
        return WorkerCount(workers, grows=grows)
    return WorkerCount(workers, 1.0, capacity().gpu_cpus, grows)


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


def wait_for_workers(workers: int, gpu: float, say: Say, cpus: float = 0.5) -> None:
    """Wait until the cluster has room for the workers, each with `gpu` GPUs and `cpus` CPUs, and
    `say` so every 30 s.

    The room is requested as a placement group, so that an autoscaler starts nodes for it.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    needs = {**({"GPU": gpu} if gpu else {}), "CPU": cpus}
    group = placement_group([needs] * workers, strategy="SPREAD")
    try:
        start = time.monotonic()
        ready = group.ready()
        while not ray.wait([ready], timeout=_WAIT_LINE_SECONDS)[0]:
            waited = time.monotonic() - start
            now = ray.available_resources()
            free = {kind: now.get(kind, 0.0) for kind in needs}
            say(
                f"waiting for room for {counted(workers, 'worker')} with {_amounts(needs)}"
                f"{' each' if workers > 1 else ''}; free on all nodes together: {_amounts(free)} "
                f"({waited:.0f} s so far)",
                "waiting",
                workers=workers,
                needs=needs,
                free=free,
                elapsed_seconds=round(waited, 1),
            )
    finally:
        remove_placement_group(group)


def _amounts(resources: Mapping[str, float]) -> str:
    """Resources in words, such as `1 GPU and 16 CPUs`."""
    return " and ".join(f"{n:g} {kind}{'' if n == 1 else 's'}" for kind, n in resources.items())
