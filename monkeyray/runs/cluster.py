"""The Ray cluster: connect to it, or start one here; how many workers it has room for."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monkeyray.console import Say, follow_root, silence_stderr
from monkeyray.environment import environment
from monkeyray.errors import ClusterError, ConfigError, MonkeyRayError
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

_WAIT_LINE_SECONDS = 30.0


@dataclass(frozen=True)
class Capacity:
    """What the nodes of a cluster have now, and at most once an autoscaler has added all it may."""

    cpus: int
    gpus: int
    max_cpus: int
    max_gpus: int
    nodes: int


def in_submitted_job() -> bool:
    """Whether this process was started by `ray job submit`."""
    return bool(
        os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or os.environ.get("RAY_JOB_SUBMISSION_ID")
    )


def check_relative(option: str, uri: str | None) -> None:
    """Refuse a relative path in a submitted job, whose working folder is deleted at the end."""
    if uri is None or not Location.of(uri).is_local or uri.startswith(("/", "~", "file:")):
        return
    if in_submitted_job():
        raise ConfigError(
            f"--{option} {uri} is a relative path, and this job runs in an uploaded copy that is "
            "deleted at the end: give s3://… or another store, or an absolute path on a shared disk"
        )


def check_places(config: Any, storage: Storage, *options: str) -> None:
    """Check the places that a job's options give: `check_relative`, and whether their stores can
    be reached. Raises ConfigError or StorageError."""
    for option in options:
        place = getattr(config, option)
        if place is not None:
            check_relative(option, place)
            storage.check_reachable(Location.parse(place))


def is_asked_for(address: str | None) -> bool:
    """Whether to use a Ray cluster: if an address or RAY_ADDRESS is given, in a submitted job, if
    this process is connected to one, or if `ray start` has started one here and it answers."""
    ray = sys.modules.get("ray")
    if address or os.environ.get("RAY_ADDRESS") or in_submitted_job():
        return True
    if ray is not None and ray.is_initialized():
        return True
    started = _started_here()
    if started is None:
        return False
    # If it has ended since, its address is still written down.
    host, _, port = started.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def connected(address: str | None, debug: bool = False) -> Iterator[None]:
    """Be connected to a Ray cluster: the given one, RAY_ADDRESS, what `ray start` has started here,
    or a new one.

    A connection that is there already is used and left as it is. Of this process, Ray's environment
    variables, its signal handler and its loggers' levels are restored at the end.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    with _quiet(debug):
        try:
            with _signal_handler_kept(), contextlib.nullcontext() if debug else silence_stderr():
                _connect(address or os.environ.get("RAY_ADDRESS"), debug)
            follow_root("ray", "ray.data")
            yield
        finally:
            with _signal_handler_kept():
                ray.shutdown()


@contextlib.contextmanager
def _signal_handler_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces, in the main thread."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _connect(address: str | None, debug: bool) -> None:
    import ray

    package = Path(__file__).parents[1]
    options: dict[str, Any] = {
        "log_to_driver": debug,
        "logging_level": "INFO" if debug else "ERROR",
    }
    # Send this code to a cluster, unless a submitted job has brought it along already.
    code = {} if in_submitted_job() else {"runtime_env": {"py_modules": [str(package)]}}
    if address is None and (started := _started_here()) is not None:
        # If it has ended since, its address is still written down.
        with contextlib.suppress(ConnectionError):
            ray.init(address=started, **options, **code)
            return
    if address in (None, "local"):
        # Workers that Ray starts here find this very copy of the code, installed or not.
        paths = [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        with environment(PYTHONPATH=os.pathsep.join(dict.fromkeys(paths))):
            ray.init(address="local", include_dashboard=False, **options)
        return
    try:
        ray.init(address=address, **options, **code)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"no Ray cluster at {address}: {str(error).splitlines()[0][:200]}"
        ) from error


def _started_here() -> str | None:
    """The address of the cluster that `ray start` has started on this machine.

    Not "auto", which also finds the private Ray of another program. Read from Ray's own file,
    because importing Ray takes as long as scoring a hundred images.
    """
    with contextlib.suppress(OSError, ValueError):
        return _address_file().read_text().strip() or None
    return None


def _address_file() -> Path:
    on_linux = os.environ.get("TMPDIR", "/tmp") if sys.platform.startswith("linux") else "/tmp"
    return Path(os.environ.get("RAY_TMPDIR", on_linux)) / "ray" / "ray_current_cluster"


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    if debug:
        yield
        return
    # The log lines of Ray's core and of TensorFlow, which go to the terminal from C++.
    variables = {
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "GLOG_minloglevel": "3",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    variables = {name: os.environ.get(name, value) for name, value in variables.items()}
    # Ray Data and Ray Train log to the terminal what our own lines say already, and Ray Tune the
    # traceback of every trial that fails, which may be one of many.
    levels = {"ray.data": logging.ERROR, "ray.train": logging.ERROR, "ray.tune": logging.CRITICAL}
    with environment(**variables), contextlib.ExitStack() as restore:
        for name, level in levels.items():
            logger = logging.getLogger(name)
            restore.callback(logger.setLevel, logger.level)
            logger.setLevel(level)
        yield


@contextlib.contextmanager
def quiet_data(preserve_order: bool = False) -> Iterator[None]:
    """Keep Ray Data's progress bars and log lines off the terminal; the settings of its context and
    loggers are restored at the end. `preserve_order`: whether blocks keep their order."""
    from ray.data import DataContext

    context = DataContext.get_current()
    settings = [
        (context, "enable_progress_bars", False),
        (context, "print_on_execution_start", False),
        (context.execution_options, "preserve_order", preserve_order),
    ]
    with contextlib.ExitStack() as restore:
        for owner, name, value in settings:
            restore.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(
                handler, logging.FileHandler
            ):
                restore.callback(handler.setLevel, handler.level)
                handler.setLevel(logging.ERROR)
        yield


def usable_cores() -> int:
    """The CPU cores that this process may use, within its affinity and a container's limits."""
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


#: Workers that share a GPU at most; each decodes on a core of its own.
_ON_A_GPU = 8


@dataclass(frozen=True)
class WorkerCount:
    """How many workers decode and run a network, and the share of a GPU of each, 0 to 1."""

    workers: int
    gpu: float = 0.0


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
            f"--{option} {asked} needs {asked} {kind}s, this Ray cluster can have at most {most}: "
            f"ask for {most} or fewer"
        )
    return asked if asked is not None else max(1, now)


def wait_for_workers(workers: int, gpu: float, say: Say) -> None:
    """Wait until the cluster has room for the workers, each with a share `gpu` of a GPU, and `say`
    so every 30 s.

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
                f"waiting for room for {workers} workers, {free:g} {kind}s are free "
                f"({waited:.0f} s so far)",
                "waiting",
                workers=workers,
                waiting_for=kind,
                free=free,
                elapsed_seconds=round(waited, 1),
            )
    finally:
        remove_placement_group(group)


def run_in_fresh_process(say: Say, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function, called on the cluster in a process that then ends. `say` is called
    while there is no room for it yet.

    Raises the MonkeyRayError that it raises, and ClusterError if its process was lost repeatedly.
    """
    import ray

    wait_for_workers(1, 0.0, say)
    try:
        return ray.get(ray.remote(num_cpus=0.5, max_calls=1)(function).remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MonkeyRayError):
            raise error.cause from None
        raise  # a bug of ours, shown as it is
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Ray aborted a step of the job ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}): run the same command again"
        ) from error
