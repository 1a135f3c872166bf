"""Arrays in files: shared by reference, and made from others without memory."""

from __future__ import annotations

import errno
import functools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from monkeyray.arrays import Array
from monkeyray.errors import StorageError
from monkeyray.runs.processes import FunctionProcess
from monkeyray.storage.mapped import MappedArray, create_mapped, map_rows, select_rows


def test_another_process_gets_a_reference(tmp_path: Path) -> None:
    array = create_mapped(tmp_path, np.float32, (3000, 2, 50))
    array[:] = np.random.default_rng(0).random(array.shape)
    views = array, array[:, 0], array[100:200], array.reshape(-1, 100)[5:], array[[2, 1]]
    for each in views:
        found = pickle.loads(pickle.dumps(each))
        np.testing.assert_array_equal(found, each)
        assert found.dtype == each.dtype
    # The third and fourth lie in the file in one piece.
    sizes = [len(pickle.dumps(each)) for each in (array, array[100:200], views[3])]
    assert max(sizes) < 500
    with FunctionProcess() as process:
        assert process.call(np.sum, array[100:200]) == np.sum(array[100:200])
    found = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(array[100:200]))[50:]))
    np.testing.assert_array_equal(found, array[150:200])
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def double(source: Array, some: slice) -> Array:
    return np.asarray(2 * source[some])


def test_rows_are_made_in_a_file_from_those_of_one(tmp_path: Path) -> None:
    plain = np.random.default_rng(1).random((9000, 3)).astype(np.float32)
    array = create_mapped(tmp_path, np.float32, plain.shape)
    array[:] = plain
    assert select_rows(array, np.ones(len(array), bool)) is array
    chosen = np.arange(len(plain)) % 3 > 0
    for source in (plain, array):
        found = select_rows(source, chosen)
        np.testing.assert_array_equal(found, plain[chosen])
        assert isinstance(found, MappedArray) == (source is array)
        twice = map_rows(source, source.shape, functools.partial(double, source))
        np.testing.assert_array_equal(twice, 2 * plain)
    assert len(list(tmp_path.iterdir())) == 3
    assert select_rows(array, np.zeros(len(array), bool)).shape == (0, 3)
    # One that was computed from it is in no file.
    computed = array[np.arange(len(array)) % 2 == 0]
    made = map_rows(computed, computed.shape, functools.partial(double, computed))
    np.testing.assert_array_equal(made, 2 * np.asarray(computed))


def test_a_full_disk_is_found_before_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=f"{tmp_path}: No space left on device"):
        create_mapped(tmp_path, np.uint8, (10,))
