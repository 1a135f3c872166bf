"""The engine of a GPU, which computes in the worker for all of its decode processes.

Beside a GPU decoding is the bottleneck, so a worker has a decode process for each of its cores.
Each makes the rows of its own shard, as on a CPU, but gets features and logits from the engine
here. It has several batches under way, so that it decodes while they wait.
"""

from __future__ import annotations

import queue
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
    from monkeyray.model.engines.choice import Engine

#: Batches of decode processes that are computed at once, if as many are there.
_AT_ONCE = 8

Results = tuple[Floats, Floats]

#: Called with features and logits, or with the error why there are none.
Reply = Callable[[Results | Exception], None]


class SharedEngine:
    """Runs the engine of some work in a thread of this process, for `clients` decode processes.

    While it computes, the next batches are collected in another array. `work`: that of the clients,
    which together have four times as many batches under way as are computed at once. So half of the
    clients can keep the engine busy while the others finish a shard.
    """

    def __init__(self, work: Work, clients: int) -> None:
        self.work = replace(work, make_engine=no_engine, ahead=-(-4 * _AT_ONCE // clients))
        self._most = _AT_ONCE * work.batch_size
        shape = (self._most, work.views, work.size, work.size, 3)
        self._queue: queue.SimpleQueue[tuple[Bytes, Reply]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._pixels, self._spare = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        #: Who gets which rows of `_pixels`.
        self._replies: list[tuple[slice, Reply]] = []
        for run, *arguments in ((self._collect,), (self._compute, work.make_engine)):
            threading.Thread(target=run, args=arguments, daemon=True).start()

    def compute(self, pixels: Bytes, reply: Reply) -> None:
        """Queue a batch, uint8 (n, views, size, size, 3). `reply` is called in another thread, in
        the order of the batches."""
        self._queue.put((pixels, reply))

    def _collect(self) -> None:
        while True:
            pixels, reply = self._queue.get()
            with self._changed:
                while self._rows() + len(pixels) > self._most:
                    self._changed.wait()
                rows = slice(self._rows(), self._rows() + len(pixels))
                self._pixels[rows] = pixels
                self._replies.append((rows, reply))
                self._changed.notify_all()

    def _rows(self) -> int:
        return int(self._replies[-1][0].stop) if self._replies else 0

    def _compute(self, make_engine: Callable[[], Engine]) -> None:
        try:
            engine = make_engine()
        except Exception as error:
            engine = _failing(error)
        while True:
            with self._changed:
                while not self._replies:
                    self._changed.wait()
                pixels, replies, size = self._pixels, self._replies, self._rows()
                self._pixels, self._spare, self._replies = self._spare, pixels, []
                self._changed.notify_all()
            # Kernels are tuned anew for each number of images, so there are few.
            padded = min(self._most, 1 << (size - 1).bit_length()) if size else 0
            try:
                features, logits = engine(pixels[:padded])
            except Exception as error:
                for _, reply in replies:
                    reply(_handed_on(error))
            else:
                for rows, reply in replies:
                    reply((features[rows], logits[rows]))


def _failing(error: Exception) -> Engine:
    def engine(pixels: Array) -> Results:
        raise error

    return engine


def _handed_on(error: Exception) -> Exception:
    """An error as it can be sent to another process."""
    if isinstance(error, MonkeyRayError):
        return error
    return RuntimeError("".join(traceback.format_exception(error)))
