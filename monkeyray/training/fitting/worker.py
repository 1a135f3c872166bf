"""One worker of a training: its place among the workers, and the state in its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from monkeyray.arrays import Array
from monkeyray.model.backbones import Weights, import_keras

#: The fields that are lists of arrays.
_ARRAYS = ("variables", "optimizer", "best")

#: The name of the other fields, as JSON, in a checkpoint.
_VALUES = "values"


@dataclass(frozen=True)
class State:
    """The state after some epochs.

    `variables`, `optimizer`: the current values; `best`: the variables with the lowest loss on
    held-out images, at `best_epoch`. `resumed_from`: the epochs after which an interrupted training
    continued. `diverged`: whether it ended because a loss was not finite.
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

    def to_bytes(self) -> bytes:
        """The content of a checkpoint."""
        from safetensors.numpy import save

        arrays = {
            # Not ascontiguousarray, which makes Adam's count of steps an array of one.
            f"{name}/{index:04d}": np.asarray(array, order="C")
            for name in _ARRAYS
            for index, array in enumerate(getattr(self, name))
        }
        values = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in _ARRAYS
        }
        arrays[_VALUES] = np.frombuffer(json.dumps(values).encode(), np.uint8)
        return bytes(save(arrays))

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Read what `to_bytes` gave."""
        from safetensors.numpy import load

        arrays = load(data)
        values: dict[str, Any] = json.loads(arrays.pop(_VALUES).tobytes())
        for name in _ARRAYS:
            values[name] = [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}/")]
        return cls(**values)


@dataclass(frozen=True)
class Worker:
    """Worker `rank` of `world`, on `threads` cores, or all cores if None.

    `resume`: the state to resume from. `checkpoint` is called on every worker after the same
    epochs, and may wait for the others; `on_epoch` is called on every worker with the figures of
    every epoch.
    """

    rank: int = 0
    world: int = 1
    threads: int | None = None
    resume: State | None = None
    checkpoint: Callable[[State], None] = lambda state: None
    on_epoch: Callable[[dict[str, Any]], None] = lambda figures: None

    @cached_property
    def strategy(self) -> Any:
        """TensorFlow's strategy. If `threads` is set, TensorFlow must not have run before."""
        import_keras()
        import tensorflow as tf

        if self.threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(self.threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
            # The same seed must give the same weights.
            tf.config.experimental.enable_op_determinism()
        alone = self.world == 1
        return (
            tf.distribute.get_strategy() if alone else tf.distribute.MultiWorkerMirroredStrategy()
        )

    @cached_property
    def _all_reduce(self) -> Any:
        strategy = self.strategy
        import tensorflow as tf

        def reduce(values: Any) -> Any:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(values))

        # AutoGraph would leave files in the temporary folder when the process is killed.
        return tf.function(
            lambda values: strategy.run(reduce, args=(values,)),
            autograph=False,
            reduce_retracing=True,
        )

    def sum(self, values: Array) -> Array:
        """The sum of an array over all workers."""
        return values if self.world == 1 else np.asarray(self._all_reduce(values))


class Training(Protocol):
    """What a worker runs."""

    @property
    def config(self) -> Any:
        """The settings: a dataclass with the maximum number of `epochs`."""

    def __call__(self, worker: Worker) -> tuple[State, Weights]:
        """Run it; returns the last state, and the weights by name. A ConfigError is raised on all
        workers or none."""
