"""Supervises the process that opens images (decode_process.py), and restarts it.

If the process dies, the image that it had open is tried alone, in another process that does nothing
else. If that dies too, twice, the image gets a row with the status `crashed` or `timeout`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.errors import ClusterError, DecodeError
from monkeyray.images.decode import Decoded
from monkeyray.runs.child import start_child
from monkeyray.runs.workers.batches import Outcomes
from monkeyray.runs.workers.decode_process import OpenImage, Slots, Work, no_engine
from monkeyray.runs.workers.fetch import REFUSED, Readable
from monkeyray.runs.workers.shared_engine import Results, SharedEngine

#: For how long a network may load, or compute a batch: this, or so many times its slowest batch.
_COMPUTE_SECONDS = 1200.0
_SLOWER = 20

#: How often in a row the process may die, or its network hang, before the job ends.
_DEATHS = 4
_HANGS = 1


class DecodeProcessDiedError(Exception):
    """The child has died. `position`: the image that it had open, None if none was. `hung`: it was
    killed because it did not return from that image, or from the network. `how`: its exit code or
    signal."""

    def __init__(self, position: int | None, hung: bool, how: str) -> None:
        super().__init__(how)
        self.position = position
        self.hung = hung
        self.how = how


class DecodeProcess:
    """A child process, as its worker sees it."""

    def __init__(
        self,
        work: bytes,
        timeout_seconds: float,
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
        engine: SharedEngine | None = None,
    ) -> None:
        import multiprocessing

        self._timeout_seconds = timeout_seconds
        self._engine = engine
        #: For how long its network may compute.
        self.compute_seconds = _COMPUTE_SECONDS
        self._pipe, far = multiprocessing.Pipe()
        #: Held while the pipe is used by the engine, or closed.
        self._open = threading.Lock()
        self._image = OpenImage.create()
        handed = [far.fileno(), self._image.descriptor]
        if engine is not None:
            handed.append(os.memfd_create("slots"))
            self._slots = Slots(handed[-1], engine.work)
        try:
            # From a thread that stays, because the child dies with the thread that started it.
            self._process = _starter.submit(
                start_child,
                "monkeyray.runs.workers.decode_process",
                handed,
                (),
                {**os.environ, **(environment or {})},
                quiet,
            ).result()
        except OSError as error:
            self._pipe.close()
            self._image.close()
            raise ClusterError(
                f"cannot start a process to open images ({error}): try fewer --workers"
            ) from None
        finally:
            far.close()
            for descriptor in handed[2:]:
                os.close(descriptor)  # its memory stays mapped
        #: Nanoseconds that it has spent on fetch, decode and compute.
        self.spent: Counter[str] = Counter()
        with contextlib.suppress(OSError):  # it died at once, and `_receive` will notice
            self._pipe.send_bytes(work)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def run(
        self,
        plan: pa.Table,
        start: int = 0,
        outcomes: Outcomes | None = None,
        readable: Readable | None = None,
        unproven: int = 0,
    ) -> Iterator[pa.Table]:
        """Tables of the plan's rows from position `start` on, one per batch.

        `readable` and `unproven`: see Refusals.recall.
        Raises DecodeProcessDiedError, the MonkeyRayError that the process raised, or RuntimeError
        for a bug.
        """
        yield from self._ask(("run", plan, start, dict(outcomes or {}), readable, unproven))

    def open(self, row: pa.Table) -> Decoded | DecodeError | None:
        """Open the image of one row of the plan; None if its bytes cannot be read. Raises as `run`
        does."""
        (outcome,) = self._ask(("open", row))
        return outcome  # type: ignore[no-any-return]

    def _ask(self, request: tuple[Any, ...]) -> Iterator[Any]:
        try:
            self._pipe.send(request)
        except OSError:
            raise self._died(hung=False) from None
        while True:
            kind, value = self._receive()
            if kind == "error":
                raise value
            elif kind == "spent":
                self.spent.update(value)
                # The first batch is the slowest, since much is compiled in it.
                slow = _SLOWER * value.get("compute", 0) / 1e9
                self.compute_seconds = max(self.compute_seconds, slow)
            elif kind == "compute":
                assert self._engine is not None
                slot, count = value
                pixels = self._slots.pixels[slot, :count]
                self._engine.compute(pixels, functools.partial(self._answer, slot))
            elif kind == "end":
                return
            else:
                yield value

    def _answer(self, slot: int, outcome: Results | Exception) -> None:
        """Hand the engine's results to the process, from the engine's thread."""
        answer: Exception | list[tuple[int, ...]]
        if isinstance(outcome, Exception):
            answer = outcome
        else:
            answer = [values.shape for values in outcome]
            for place, values in zip(self._slots.results(slot, answer), outcome, strict=True):
                place[...] = values
        # Short messages, so this never waits for the process. It may have died meanwhile.
        with self._open, contextlib.suppress(OSError):
            self._pipe.send(answer)

    def _receive(self) -> Any:
        # Opening an image and computing are timed; the store has its own timeouts.
        try:
            while not self._pipe.poll(min(1.0, self._timeout_seconds / 4)):
                if self._image.longer_than(self._timeout_seconds, self.compute_seconds):
                    raise self._died(hung=True)
            return self._pipe.recv()
        except (EOFError, OSError):  # closed, or cut off within a message
            raise self._died(hung=False) from None

    def _died(self, hung: bool) -> DecodeProcessDiedError:
        if not hung:
            # Its pipe is closed, so it is exiting: wait for its own exit code.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._process.kill()
        code = self._process.wait()
        how = f"exit code {code}"
        if code < 0:
            names = {number.value: number.name for number in signal.Signals}
            how = f"signal {-code} ({names.get(-code, 'unknown')})"
        return DecodeProcessDiedError(self._image.position(), hung, how)

    def kill(self) -> None:
        """Kill the process, from any thread."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and release its resources."""
        self._process.kill()
        self._process.wait()
        with self._open:
            self._pipe.close()
        self._image.close()


_starter = ThreadPoolExecutor(1, "starter")


def _renew_starter() -> None:
    # A forked process lacks the thread.
    global _starter
    _starter = ThreadPoolExecutor(1, "starter")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_starter)


@dataclass(frozen=True)
class Packed:
    """Work as it is sent to children: `whole`, or `bare`, without the network, for single
    images. `reach`: images that a child may have decoded since its last table. `engine`: that of
    the worker, if children have none."""

    whole: bytes
    bare: bytes
    reach: int
    decode_seconds: float
    engine: SharedEngine | None = None


def pack(
    work: Work,
    pickle: Callable[[Any], bytes] = pickle.dumps,
    engine: SharedEngine | None = None,
) -> Packed:
    """Pack work once for any number of children. `pickle`: makes bytes that `pickle.loads`
    reads."""
    work = work if engine is None else engine.work
    bare = replace(work, make_engine=no_engine, mapper=_no_rows, ahead=0)
    reach = work.batch_size * (work.ahead + 1)
    return Packed(pickle(work), pickle(bare), reach, work.limits.decode_seconds, engine)


class SupervisedDecoder:
    """Restarts the child when it dies, and finds out which image killed it.

    `environment` is added to the child's. `quiet` drops what native code in the child prints.
    Raises ClusterError if no process can be started.
    """

    def __init__(self, packed: Packed, environment: Mapping[str, str], quiet: bool = False) -> None:
        self._packed = packed
        self._environment = dict(environment)
        self._quiet = quiet
        self._readable: Readable | None = None
        self._before: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._alone: DecodeProcess | None = None
        self._child = self._start()

    def _start(self) -> DecodeProcess:
        return DecodeProcess(
            self._packed.whole,
            self._packed.decode_seconds,
            self._environment,
            self._quiet,
            self._packed.engine,
        )

    def spent(self) -> Counter[str]:
        """Nanoseconds that children have spent since the start: waiting for images (`fetch`),
        decoding them (`decode`), and on the network and the rows (`compute`)."""
        return self._before + self._child.spent

    def run(self, plan: pa.Table) -> Iterator[pa.Table]:
        """Tables of all rows of a plan in order, even if the child dies meanwhile.

        Raises ClusterError if it dies repeatedly and no image is the cause.
        """
        done, deaths, refused, forgotten = 0, 0, 0, 0
        outcomes: dict[int, Decoded | DecodeError] = {}
        while done < plan.num_rows:
            try:
                for table in self._child.run(plan, done, outcomes, self._readable, forgotten):
                    done += table.num_rows
                    deaths = 0
                    refused += self._note(table)
                    yield table
            except DecodeProcessDiedError as death:
                if self._stopped.is_set():
                    raise
                deaths += 1
                stuck = death.hung and death.position is None
                if stuck and deaths > _HANGS:
                    raise ClusterError(
                        f"a batch was not computed within {self._child.compute_seconds:g} s, "
                        f"{deaths} times in a row: check the GPU or the disk of this node, or try "
                        "another --engine; finished files are kept, run it again to resume"
                    ) from None
                if deaths > _DEATHS:
                    raise ClusterError(
                        f"the process that opens images died {deaths} times in a row "
                        f"({death.how}), and no single image is the cause: it may lack memory; try "
                        "fewer --workers or a smaller --batch-size"
                    ) from None
                suspects = [] if death.position is None else [death.position]
                if not suspects and deaths > 1:
                    # An image that it had closed already may have corrupted its memory.
                    suspects = list(range(done, min(done + self._packed.reach, plan.num_rows)))
                for position in suspects:
                    if position not in outcomes:
                        found = self._try_alone(plan.slice(position, 1))
                        if found is not None:
                            outcomes[position] = found
                            if isinstance(found, DecodeError):
                                deaths = 0  # that one is explained
                self._before += self._child.spent
                self._child.close()
                self._child = self._start()
                if self._stopped.is_set():  # between the two
                    raise
                # The new one does not know which refusals the old one had not confirmed yet.
                forgotten = refused

    def _note(self, table: pa.Table) -> int:
        """Remember an image that could be read; returns how many were refused."""
        read = table.filter(table["sha256"].is_valid())
        if read.num_rows:
            self._readable = read["uri"][-1].as_py(), read["etag_or_mtime"][-1].as_py()
        return int(pc.sum(pc.is_in(table["status"], pa.array(REFUSED))).as_py() or 0)

    def _try_alone(self, row: pa.Table) -> Decoded | DecodeError | None:
        """The outcome of an image, one row of the plan, in a process of its own, tried twice; None
        if its bytes cannot be read. Raises ClusterError if such a process cannot even start."""
        died: list[DecodeProcessDiedError] = []
        failed = 0
        while len(died) < 2:
            child = self._alone = DecodeProcess(
                self._packed.bare, self._packed.decode_seconds, quiet=self._quiet
            )
            try:
                if self._stopped.is_set():
                    raise DecodeProcessDiedError(None, False, "stopped")
                return child.open(row)
            except DecodeProcessDiedError as death:
                if self._stopped.is_set():
                    raise
                if death.position is not None:
                    died.append(death)
                    continue
                # It had no image open, so the image is not the cause.
                failed += 1
                if failed > 5:
                    raise ClusterError(
                        "the process that opens single images dies before it opens one "
                        f"({death.how}): check "
                        "the memory and the installation of this node, and its output with --debug"
                    ) from None
                self._stopped.wait(failed)
            finally:
                self._alone = None
                child.close()
        if died[-1].hung:
            return DecodeError(
                "timeout", f"not decoded within {self._packed.decode_seconds:g} s, twice"
            )
        return DecodeError("crashed", f"the decoder crashed on it twice: {died[-1].how}")

    def stop(self) -> None:
        """Kill the process, from any thread: a run in progress ends with DecodeProcessDiedError."""
        self._stopped.set()
        for child in (self._child, self._alone):
            if child is not None:
                child.kill()

    def close(self) -> None:
        """Kill the child."""
        self._child.close()


def _no_rows(*batch: Any) -> pa.Table:
    raise ClusterError("this process only opens single images")
