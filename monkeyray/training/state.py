"""The state of a training: the content of a checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from monkeyray.arrays import Array

#: The fields that are lists of arrays.
_ARRAYS = ("variables", "optimizer", "best")


@dataclass(frozen=True)
class State:
    """The state after some epochs.

    `variables`, `optimizer`: the current values; `best`: the variables at the lowest validation
    loss. `resumed_from`: the epochs after which an interrupted training continued. `diverged`:
    whether it ended because a loss was not finite.
    """

    epoch: int
    variables: list[Array]
    optimizer: list[Array]
    best: list[Array]
    best_epoch: int
    best_loss: float
    history: list[dict[str, Any]] = field(default_factory=list)
    done: bool = False
    resumed_from: list[int] = field(default_factory=list)
    diverged: bool = False

    def save(self, folder: Path) -> None:
        """Write the state into a folder."""
        from safetensors.numpy import save_file

        arrays = {
            # Not ascontiguousarray, which makes Adam's count of steps an array of one.
            f"{name}/{index:04d}": np.asarray(array, order="C")
            for name in _ARRAYS
            for index, array in enumerate(getattr(self, name))
        }
        save_file(arrays, folder / "state.safetensors")
        values = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in _ARRAYS
        }
        (folder / "state.json").write_text(json.dumps(values))

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read a state that `save` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(folder / "state.safetensors")

        values: dict[str, Any] = json.loads((folder / "state.json").read_text())
        for name in _ARRAYS:
            values[name] = [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}/")]
        return cls(**values)
