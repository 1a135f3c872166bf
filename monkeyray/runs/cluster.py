"""The Ray cluster: connect to it, or start one here."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from monkeyray.console import Say, follow_root, silence_stderr
from monkeyray.environment import environment
from monkeyray.errors import ClusterError, ConfigError, MonkeyRayError, first_line
from monkeyray.runs.workers.worker_count import capacity, usable_cores, wait_for_workers
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage


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
    """Whether to use a Ray cluster: if an address or RAY_ADDRESS is given, in a submitted job, or
    if this process is connected to one. One that merely runs on this machine may belong to someone
    else."""
    ray = sys.modules.get("ray")
    return bool(_asked(address)) or (ray is not None and ray.is_initialized())


def _asked(address: str | None) -> str | None:
    return address or os.environ.get("RAY_ADDRESS") or ("auto" if in_submitted_job() else None)


@contextlib.contextmanager
def connected(address: str | None, debug: bool = False, say: Say | None = None) -> Iterator[None]:
    """Connect to a Ray cluster: the given one, that of RAY_ADDRESS or of a submitted job, or a new
    one of our own on this machine. `say` names it, unless it is our own.

    An existing connection is used and left open. Ray's environment variables, signal handler and
    logger levels in this process are restored at the end. Raises ClusterError if the cluster cannot
    be reached, or goes away meanwhile.
    """
    import ray

    if ray.is_initialized():
        if _nested:
            yield
            return
        with _watched(), _nesting():
            _introduce(say)
            yield
        return
    asked = _asked(address)
    own = asked in (None, "local")
    with _quiet(debug), contextlib.ExitStack() as ending:
        ending.enter_context(_signal_handler_kept())
        folder = ending.enter_context(short_folder()) if own else None
        ending.callback(_leave)
        # Ray sets these in this process too.
        variables = environment(RAY_AUTH_MODE=None, PYTHONBREAKPOINT=None)
        hush = contextlib.nullcontext() if debug else silence_stderr()
        has_token = True
        with _signal_handler_kept(), variables, hush:
            if folder is not None:
                has_token = _start(folder, debug)
            else:
                _join(str(asked), debug)
        follow_root("ray", "ray.data")
        if not has_token:
            logging.getLogger(__name__).warning(
                "MonkeyRay cannot set the token of this release of Ray, so other users of this "
                "machine can connect to this job's Ray: use the release in requirements.lock"
            )
        if not own:
            ending.enter_context(_watched())
            _introduce(say)
        with _nesting():
            yield


#: Whether this process is inside `connected`.
_nested = False


@contextlib.contextmanager
def _nesting() -> Iterator[None]:
    global _nested
    _nested = True
    try:
        yield
    finally:
        _nested = False


def _introduce(say: Say | None) -> None:
    import ray

    if say is not None:
        has, address = capacity(), ray.get_runtime_context().gcs_address
        say(
            f"using the Ray cluster at {address}: {has.cpus} CPUs, {has.gpus} GPUs",
            "cluster",
            address=address,
            cpus=has.cpus,
            gpus=has.gpus,
        )


@contextlib.contextmanager
def _signal_handler_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces, in the main thread."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


#: How many times a task is restarted after its process has died.
RETRIES = 2

#: How long a cluster's head may be unreachable: less than the minute after which Ray ends this
#: process.
_LOST_SECONDS = 30.0

#: How long this process may then take to end its job cleanly.
_LEAVE_SECONDS = 10.0


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Raise ClusterError if the connected cluster goes away meanwhile.

    Ray would end the whole process; so does this if the job does not end by itself.
    """
    import ray

    address = ray.get_runtime_context().gcs_address
    lost = ClusterError(
        f"the Ray cluster at {address} has gone away: finished files are kept; start it again, or "
        "leave out --ray-address and RAY_ADDRESS, and run the same command again to resume"
    )
    end, gone = threading.Event(), threading.Event()
    main = threading.main_thread()
    interruptible = threading.current_thread() is main

    def watch() -> None:
        answered = time.monotonic()
        while not end.wait(_LOST_SECONDS / 10):
            with contextlib.suppress(OSError):
                _check_answers(address)
                answered = time.monotonic()
            if time.monotonic() - answered > _LOST_SECONDS:
                gone.set()
                if interruptible:
                    signal.pthread_kill(main.ident or 0, signal.SIGINT)
                if not end.wait(_LEAVE_SECONDS):
                    logging.getLogger(__name__).critical("error: %s", lost)
                    os._exit(2)
                return

    threading.Thread(target=watch, daemon=True, name="cluster").start()
    try:
        yield
    except BaseException:
        if gone.is_set():
            raise lost from None
        raise
    finally:
        end.set()


_PACKAGE = Path(__file__).parents[1]


def _options(debug: bool) -> dict[str, Any]:
    return {"log_to_driver": debug, "logging_level": "INFO" if debug else "ERROR"}


def _start(folder: Path, debug: bool) -> bool:
    """Start our own Ray, which keeps everything in this folder and rejects clients without its
    token. In the home folder, Ray's default, the token would switch on authentication for every
    cluster started later. Returns whether it has a token."""
    import ray

    mode = os.environ.get("RAY_AUTH_MODE")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    # Workers that Ray starts here find this very copy of the code, installed or not.
    paths = [str(_PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    with environment(
        PYTHONPATH=os.pathsep.join(dict.fromkeys(paths)),
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_AUTH_MODE=mode or "token",
    ):
        has_token = _read_authentication()
        if not has_token:
            # Ray has read them already, and would be locked out of its own cluster.
            os.environ["RAY_AUTH_MODE"] = mode or "disabled"
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=usable_cores(),
            _temp_dir=str(folder),
            **_options(debug),
        )
    return has_token


def _leave() -> None:
    import ray

    ray.shutdown()
    _read_authentication()


def _read_authentication() -> bool:
    """Make Ray reread its token settings from the environment. There is no public API for this;
    returns whether this release still has the private one."""
    try:
        raylet = importlib.import_module("ray._raylet")  # its types are incomplete
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
    except (ImportError, AttributeError):
        return False
    return True


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder with a name short enough for Ray's sockets, deleted at the end."""
    places = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"]
    for place in filter(None, places):
        if len(os.fsencode(place)) <= _LONGEST_FOLDER:
            with contextlib.suppress(OSError):
                folder = tempfile.mkdtemp(prefix="ray-", dir=place)
                break
    else:
        raise ConfigError(
            f"Ray needs a writable temporary folder whose name has at most {_LONGEST_FOLDER} "
            f"bytes, unlike {tempfile.gettempdir()} and /tmp: set RAY_TMPDIR to one"
        )
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


#: Bytes of a folder's name such that the paths of Ray's sockets below it fit into 103 bytes.
_LONGEST_FOLDER = 26


def _join(address: str, debug: bool) -> None:
    import ray

    # Send this code to the cluster, unless a submitted job has brought it along already.
    code = {} if in_submitted_job() else {"runtime_env": {"py_modules": [str(_PACKAGE)]}}
    try:
        _check_answers(address)
        ray.init(address=address, **_options(debug), **code)
    except ray.exceptions.AuthenticationError as error:
        raise ClusterError(
            f"the Ray cluster at {address} rejects this job without its token: set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the token of its head "
            "node (~/.ray/auth_token there), or RAY_AUTH_MODE=disabled if it has none"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"no Ray cluster at {address}: {first_line(error)}; start it, correct "
            "--ray-address or RAY_ADDRESS, or leave both out to work without a cluster"
        ) from error


def _check_answers(address: str) -> None:
    """Raise OSError or ValueError if the address does not answer within seconds; Ray would try for
    many minutes."""
    if address == "auto":
        try:
            from ray._private.services import canonicalize_bootstrap_address
        except ImportError:  # not public: without it, Ray finds out itself, in minutes
            return
        address = canonicalize_bootstrap_address("auto") or ""
        if not address:
            raise ConnectionError("none was started on this machine")
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        raise ValueError("give HOST:PORT of its head node, as seen from one of its nodes, or auto")
    socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


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


def run_in_fresh_process(say: Say, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function, called on the cluster in a process that then ends. `say` is called
    while there is no room for it yet.

    Raises the MonkeyRayError that it raises, and ClusterError if its process was lost repeatedly.
    """
    import ray

    wait_for_workers(1, 0.0, say)
    return result_of(ray.remote(num_cpus=0.5, max_calls=1)(function).remote(*arguments))


def result_of(reference: Any) -> Any:
    """Wait for the result of a task. Raises as `run_in_fresh_process` does."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MonkeyRayError):
            raise error.cause from None
        raise  # a bug of ours, shown as it is
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Ray aborted a step of the job ({type(error).__name__}: "
            f"{first_line(error)}): run the same command again"
        ) from error


def map_in_tasks(
    say: Say, function: Callable[[Any, Any], Any], items: Sequence[Any], shared: Any
) -> Generator[tuple[int, Any]]:
    """Call `function(item, shared)` for each item, in a task of the cluster with one core each.
    `say` is called while there is no room for one yet.

    Yields each item's index and its result, or the exception that it raised, as they end.
    """
    import ray

    wait_for_workers(1, 0.0, say)
    given = ray.put(shared)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(function)
    numbers = {task.remote(item, given): number for number, item in enumerate(items)}
    waiting = list(numbers)
    while waiting:
        done, waiting = ray.wait(waiting)
        for each in done:
            try:
                yield numbers[each], ray.get(each)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                yield numbers[each], cause if isinstance(cause, Exception) else error
