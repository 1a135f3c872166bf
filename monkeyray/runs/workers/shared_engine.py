"""The engine of a GPU, which computes in the worker for all of its decode processes.

Beside a GPU decoding is the bottleneck, so a worker has a decode process for each of its cores.
Each makes the rows of its own shard, as on a CPU, but gets features and logits from the engine
here. It has several batches under way, so that it decodes while they wait.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from monkeyray.arrays import Array, Bytes, Floats
from monkeyray.errors import MonkeyRayError
from monkeyray.runs.workers.decode_process import Work, no_engine

if TYPE_CHECKING:
    from monkeyray.model.engines import Engine

#: Batches of decode processes that are computed at once, if as many are there.
_AT_ONCE = 8

Results = tuple[Floats, Floats]

#: Called with features and logits, or with the error why there are none.
Reply = Callable[[Results | Exception], None]


class SharedEngine:
    """Runs the engine of some work in a thread of this process, for `clients` decode processes.

    Batches are collected in one array while the engine computes those in another. `work`: that of
    the clients, who have two times as many batches under way as are computed at once.
    """

    def __init__(self, work: Work, clients: int) -> None:
        ahead = -(-2 * _AT_ONCE // clients)
        self.work = replace(work, make_engine=no_engine, ahead=ahead)
        self._most = _AT_ONCE * work.batch_size
        # Room for all that is under way, and what clients that died have left. Pages that are not
        # used take no memory.
        room = 2 * clients * (ahead + 1) * work.batch_size
        shape = (room, work.views, work.size, work.size, 3)
        self._changed = threading.Condition()
        self._pixels, self._spare = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        self._waiting: list[tuple[slice, Reply]] = []
        threading.Thread(
            target=self._serve, args=(work.make_engine,), daemon=True, name="engine"
        ).start()

    def compute(self, pixels: Bytes, reply: Reply) -> None:
        """Queue a copy of a batch, uint8 (n, views, size, size, 3). `reply` is called in another
        thread, in the order of the batches."""
        with self._changed:
            start = self._waiting[-1][0].stop if self._waiting else 0
            rows = slice(start, start + len(pixels))
            self._pixels[rows] = pixels
            self._waiting.append((rows, reply))
            self._changed.notify()

    def _serve(self, make_engine: Callable[[], Engine]) -> None:
        try:
            engine = make_engine()
        except Exception as error:
            engine = _failing(error)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                pixels, waiting = self._pixels, self._waiting
                self._pixels, self._spare, self._waiting = self._spare, pixels, []
            while waiting:
                first = waiting[0][0].start
                count = sum(rows.stop - first <= self._most for rows, _ in waiting)
                self._answer(engine, pixels[first:], first, waiting[:count])
                del waiting[:count]

    def _answer(
        self, engine: Engine, pixels: Bytes, first: int, batches: list[tuple[slice, Reply]]
    ) -> None:
        """Compute some batches at once, which `pixels` begin with, at position `first`."""
        size = batches[-1][0].stop - first
        # Kernels are tuned anew for each number of images, so there are few.
        padded = min(self._most, 1 << (size - 1).bit_length()) if size else 0
        try:
            features, logits = engine(pixels[:padded])
        except Exception as error:
            for _, reply in batches:
                reply(_handed_on(error))
            return
        for rows, reply in batches:
            place = slice(rows.start - first, rows.stop - first)
            reply((features[place], logits[place]))


def _failing(error: Exception) -> Engine:
    def engine(pixels: Array) -> Results:
        raise error

    return engine


def _handed_on(error: Exception) -> Exception:
    """An error as it can be sent to another process."""
    if isinstance(error, MonkeyRayError):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))
