"""Arrays in files, which need no memory of their own and which processes of a machine share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from monkeyray.arrays import Array, Flags
from monkeyray.storage.backends.local import local_errors

#: Rows copied at a time.
_ROWS = 4096


class MappedArray(np.memmap[Any, Any]):
    """An array in a file, which is pickled as a reference to that file, and read-only where it
    arrives. Numpy's are pickled whole."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        memory = getattr(self, "_mmap", None)
        if memory is None or not self.flags.c_contiguous:  # computed from one, or part of one
            return np.array(self, subok=False).__reduce_ex__(protocol)
        start = self.ctypes.data - np.frombuffer(memory, np.uint8).ctypes.data
        return _open, (str(self.filename), self.dtype.str, self.shape, start)


def _open(path: str, dtype: str, shape: tuple[int, ...], start: int) -> Array:
    whole = MappedArray(path, np.uint8, "r")
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.asanyarray(whole[start : start + size].view(dtype).reshape(shape))


def create_mapped(folder: Path, dtype: Any, shape: tuple[int, ...]) -> Array:
    """An array of zeros in a new file of a folder, whose space is reserved.

    Raises StorageError if there is no space.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    with local_errors(str(folder), writing=True):
        descriptor, path = tempfile.mkstemp(".array", dir=folder)
        try:
            # Without it, a full disk would kill this process later.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        return np.asanyarray(MappedArray(path, dtype, "r+", shape=shape))


def select_rows(array: Array, chosen: Flags) -> Array:
    """The rows of an array where `chosen`, bool (n,), is True; the array itself if all are, and a
    new file beside that of a mapped one."""
    if chosen.all():
        return array
    rows = np.flatnonzero(chosen)
    return map_rows(array, (len(rows), *array.shape[1:]), lambda some: array[rows[some]])


def map_rows(source: Array, shape: tuple[int, ...], rows: Callable[[slice], Array]) -> Array:
    """An array of that shape, whose rows are made from those of `source`: block by block in a new
    file beside that of a mapped one."""
    if not isinstance(source, MappedArray) or source.filename is None:  # or computed from one
        return np.asarray(rows(slice(None)))
    made = create_mapped(Path(source.filename).parent, source.dtype, shape)
    for start in range(0, shape[0], _ROWS):
        made[start : start + _ROWS] = rows(slice(start, start + _ROWS))
    return made
