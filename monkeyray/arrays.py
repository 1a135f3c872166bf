"""NumPy array types for hints, by content; docstrings give the shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Any dtype.
Array = np.ndarray[Any, Any]

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
