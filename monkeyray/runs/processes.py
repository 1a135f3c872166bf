"""Processes of this machine that call functions: a training, the trials of a search, shards without
images.

They are subprocesses rather than multiprocessing's, which would run the caller's script again.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

from monkeyray.errors import ClusterError
from monkeyray.runs.child import die_with, start_child

#: How often a call starts again whose process died.
_RETRIES = 2

#: As in Ray's workers: libraries compute in one thread by default. With more, they may add in
#: another order, and results may differ in their last bits.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}

#: Keeps off the terminal what libraries print.
_QUIET = {"GLOG_minloglevel": "3", "PYTHONWARNINGS": "ignore", "TF_CPP_MIN_LOG_LEVEL": "3"}


class ProcessDiedError(Exception):
    """The process has died; the text says how."""


class FunctionProcess:
    """A process that calls functions, one after another; a context that kills it at the end.

    `needed`: modules to import and, as module:name, functions to call at once, while the caller
    does something else. `debug` shows what it prints. It dies with the thread that started it.
    Raises ClusterError if it cannot be started.
    """

    def __init__(self, debug: bool = False, needed: Sequence[str] = ()) -> None:
        import multiprocessing

        self._pipe, far = multiprocessing.Pipe()
        try:
            self._process = start_child(
                "monkeyray.runs.processes",
                [far.fileno()],
                needed,
                {**_ENVIRONMENT, **({} if debug else _QUIET), **os.environ},
                quiet=not debug,
            )
        except OSError as error:
            self._pipe.close()
            raise ClusterError(f"cannot start a process ({error}): free some memory") from None
        finally:
            far.close()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a module's function, or what it raises. Raises ProcessDiedError."""
        try:
            self._pipe.send((function, arguments))
            returned, value = self._pipe.recv()
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)  # for its own exit code
            self._process.kill()
            raise ProcessDiedError(f"exit code {self._process.wait()}") from None
        if not returned:
            raise value
        return value

    def close(self) -> None:
        """Kill it, from any thread."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._pipe.close()


def map_in_processes(
    function: Callable[[Any, Any], Any],
    items: Sequence[Any],
    shared: Any,
    count: int,
    debug: bool = False,
) -> Generator[tuple[int, Any]]:
    """Call `function(item, shared)` for each item in at most `count` processes.

    Yields each item's index and its result, or the exception that it raised, as they end; a
    ClusterError if its process died repeatedly. Close the iterator to end all processes.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    for number in range(len(items)):
        todo.put(number)
    stop, running = threading.Event(), dict[int, FunctionProcess]()

    def call(number: int) -> Any:
        me, died = threading.get_ident(), ""
        for _ in range(_RETRIES + 1):
            try:
                if me not in running:
                    running[me] = FunctionProcess(debug)
                    running[me].call(_share, shared)
                return running[me].call(_call_shared, function, items[number])
            except ProcessDiedError as death:
                running.pop(me).close()
                died = str(death)
                if stop.is_set():
                    break
            except Exception as error:
                return error
        return ClusterError(f"its process died {_RETRIES + 1} times, last with {died}")

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while not stop.is_set():
                number = todo.get_nowait()
                done.put((number, call(number)))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(count, len(items)))]
    try:
        for thread in threads:
            thread.start()
        for _ in items:
            yield done.get()
    finally:
        stop.set()
        for process in list(running.values()):
            process.close()
        for thread in threads:
            thread.join(10)


#: What all calls of this process share.
_shared: Any = None


def _share(value: Any) -> None:
    global _shared
    _shared = value


def _call_shared(function: Callable[[Any, Any], Any], item: Any) -> Any:
    return function(item, _shared)


def main(parent: int, descriptor: int, *needed: str) -> None:
    """The process: load what is needed, then answer calls until the other end closes."""
    die_with(parent)
    pipe = Connection(descriptor)
    for name in needed:
        found = pkgutil.resolve_name(name)
        if ":" in name:
            found()
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = False, error
        try:
            pipe.send(answer)
        except OSError:
            return
        except Exception:  # it cannot be pickled
            pipe.send((False, RuntimeError(repr(answer[1]))))


if __name__ == "__main__":
    # Under its own name, so that what is pickled here is found there.
    from monkeyray.runs import processes as child

    child.main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
