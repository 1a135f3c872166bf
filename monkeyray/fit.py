"""The data-parallel training loop of the new top, under tf.distribute and free of Ray.

Every worker draws the same seeded permutation and takes its rank's share of each step; gradients
are summed over the workers before Adam sees them. The top is computed in float64: the order of
sums then changes nothing that a float32 could show, so that any number of workers ends with the
same weights.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monkeyray.backbones import Weights, import_keras, named_weights
from monkeyray.errors import ConfigError
from monkeyray.head import build_top

Array = np.ndarray[Any, Any]

#: A validation loss must fall by this much (nats) to count as better.
_MIN_DELTA = 1e-3


@dataclass(frozen=True)
class FitConfig:
    """What decides a top's weights, besides the data. Units as in TrainConfig."""

    features: int
    labels: int
    head: tuple[int, ...]
    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    l2: float
    seed: int
    checkpoint_seconds: float


@dataclass(frozen=True)
class Parts:
    """The data by index: `truth` int label indices of all images, and which image is where."""

    truth: Array
    train: Array
    validation: Array
    test: Array


class Source(Protocol):
    """Where feature vectors come from: a cache, or the base run on images as they are needed."""

    def __call__(self, index: Array) -> Iterator[Array]:
        """For index (steps, b), each step's features of shape (b, width), in order."""


@dataclass(frozen=True)
class State:
    """Where a training is after some epochs: all that a checkpoint holds.

    `top` and `optimizer`: variables now; `best`: the top's at the lowest validation loss.
    `resumed_from`: after which epochs it was interrupted and went on.
    """

    epoch: int
    top: list[Array]
    optimizer: list[Array]
    best: list[Array]
    best_epoch: int
    best_loss: float
    history: list[dict[str, float]] = field(default_factory=list)
    done: bool = False
    resumed_from: list[int] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write the state into a folder."""
        from safetensors.numpy import save_file

        arrays = {
            # Not ascontiguousarray, which makes Adam's count of steps an array of one.
            f"{name}/{index:04d}": np.asarray(array, order="C")
            for name in ("top", "optimizer", "best")
            for index, array in enumerate(getattr(self, name))
        }
        save_file(arrays, folder / "state.safetensors")
        values = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "history": self.history,
            "done": self.done,
            "resumed_from": self.resumed_from,
        }
        (folder / "state.json").write_text(json.dumps(values))

    @classmethod
    def load(cls, folder: Path) -> State:
        """Read a state that `save` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(folder / "state.safetensors")

        def variables(name: str) -> list[Array]:
            return [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}/")]

        return cls(
            top=variables("top"),
            optimizer=variables("optimizer"),
            best=variables("best"),
            **json.loads((folder / "state.json").read_text()),
        )


@dataclass(frozen=True)
class Fitted:
    """A finished training: the state, the best top's weights by name, and its logits, float64 of
    shape (n, labels), for the validation and the test images in the order of Parts."""

    state: State
    weights: Weights
    validation_logits: Array
    test_logits: Array


@dataclass(frozen=True)
class Share:
    """One worker's share of some steps: `index` and `weight` (0 is padding) of shape (steps, b),
    `total` the images of each step over all workers."""

    index: Array
    weight: Array
    total: Array


def share(order: Array, batch_size: int, rank: int, world: int) -> Share:
    """Cut an order of images into steps, and take every `world`-th image of each from `rank` on.

    The last step, and steps that the workers cannot halve evenly, are padded with weight 0.
    """
    steps = -(-len(order) // batch_size)
    # Padding costs as much as an image where features are not cached.
    wide = -(-min(batch_size, len(order)) // world) * world
    index = np.zeros((steps, wide), np.int64)
    weight = np.zeros((steps, wide))
    for step in range(steps):
        images = order[step * batch_size : (step + 1) * batch_size]
        index[step, : len(images)] = images
        weight[step, : len(images)] = 1.0
    return Share(index[:, rank::world], weight[:, rank::world], weight.sum(axis=1))


def fit(
    config: FitConfig,
    parts: Parts,
    source: Source,
    *,
    strategy: Any,
    rank: int = 0,
    world: int = 1,
    resume: State | None = None,
    checkpoint: Callable[[State], None] = lambda state: None,
) -> Fitted:
    """Train a top until its validation loss stops falling, and keep the best epoch's.

    `checkpoint` is called on every worker after the same epochs, at least `checkpoint_seconds`
    apart, and must not return before all workers have called it or none needs to wait. Raises
    ConfigError on every worker alike when a loss is not finite.
    """
    loop = _Loop(config, source, strategy, rank, world)
    state = resume or loop.state(0, None)
    if resume is not None and not resume.done:
        state = replace(resume, resumed_from=[*resume.resumed_from, resume.epoch])
    loop.restore(state)
    last = time.monotonic()
    while not state.done:
        epoch = state.epoch + 1
        order = np.random.default_rng([config.seed, epoch]).permutation(parts.train)
        train = loop.train(share(order, config.batch_size, rank, world), parts.truth)
        validation = loop.measure(parts.validation, parts.truth)
        due = rank == 0 and time.monotonic() - last >= config.checkpoint_seconds
        # The sums of all workers, and the first one's word on whether it is time to save.
        sums = loop.sum(np.array([*train, *validation, float(due)]))
        figures = {
            "epoch": epoch,
            "train_loss": sums[0] / len(parts.train),
            "train_accuracy": sums[1] / len(parts.train),
            "validation_loss": sums[2] / len(parts.validation),
            "validation_accuracy": sums[3] / len(parts.validation),
        }
        if not np.isfinite(sums).all():
            raise ConfigError(
                f"training diverged in epoch {epoch}: lower --learning-rate (it is "
                f"{config.learning_rate:g})"
            )
        state = _advance(loop, state, figures, config)
        if sums[4] > 0 and not state.done:
            checkpoint(state)
            last = time.monotonic()
    loop.set_top(state.best)
    logits = [loop.sum(loop.logits(part)) for part in (parts.validation, parts.test)]
    return Fitted(state, named_weights(loop.top), logits[0], logits[1])


def _advance(loop: _Loop, state: State, figures: dict[str, float], config: FitConfig) -> State:
    new = loop.state(int(figures["epoch"]), state)
    new = replace(new, history=[*state.history, figures])
    if figures["validation_loss"] < state.best_loss - _MIN_DELTA:
        new = replace(new, best=new.top, best_epoch=new.epoch, best_loss=figures["validation_loss"])
    stale = new.epoch - new.best_epoch >= config.patience
    return replace(new, done=stale or new.epoch >= config.epochs)


class _Loop:
    """The TensorFlow side: one replica's variables and its compiled steps."""

    def __init__(
        self, config: FitConfig, source: Source, strategy: Any, rank: int, world: int
    ) -> None:
        keras = import_keras()
        import tensorflow as tf

        self._tf, self._config, self._source, self._strategy = tf, config, source, strategy
        self._rank, self._world = rank, world
        # Plain variables, the same on all workers by their seed: the strategy only sums gradients.
        self.top = build_top(
            config.features, config.head, config.labels, seed=config.seed, dtype="float64"
        )
        self._optimizer = keras.optimizers.Adam(config.learning_rate)
        self._optimizer.build(self.top.trainable_variables)
        # XLA makes one kernel of Adam's dozens of small ones.
        self._gradients = tf.function(self._compute_gradients, jit_compile=True)
        self._update = tf.function(self._apply_gradients, jit_compile=True)
        self._step = tf.function(self._distributed_step)
        self._epoch = tf.function(self._distributed_epoch)
        self._forward = tf.function(
            lambda x: self.top(tf.cast(x, tf.float64), training=False), reduce_retracing=True
        )
        self._sum = tf.function(self._distributed_sum, reduce_retracing=True)

    def _compute_gradients(self, x: Any, y: Any, weight: Any, total: Any) -> Any:
        tf = self._tf
        variables = self.top.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.top(tf.cast(x, tf.float64), training=True)
            losses = weight * tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
            kernels = [v for v in variables if len(v.shape) == 2]
            penalty = tf.add_n([tf.reduce_sum(v.value**2) for v in kernels])
            loss = tf.reduce_sum(losses) / total + self._config.l2 * penalty / self._world
        hits = weight * tf.cast(tf.equal(tf.argmax(logits, axis=1), y), tf.float64)
        return tape.gradient(loss, variables), tf.stack(
            [tf.reduce_sum(losses), tf.reduce_sum(hits)]
        )

    def _apply_gradients(self, gradients: Any) -> None:
        self._optimizer.apply(gradients, self.top.trainable_variables)

    def _distributed_step(self, x: Any, y: Any, weight: Any, total: Any) -> Any:
        gradients, sums = self._gradients(x, y, weight, total)
        self._update(self._strategy.run(self._all_reduce, args=(gradients,)))
        return sums

    def _distributed_epoch(self, vectors: Any, index: Any, y: Any, weight: Any, total: Any) -> Any:
        """All steps of an epoch in one call, on features that are in memory."""
        tf = self._tf
        sums = tf.zeros(2, tf.float64)
        for step in tf.range(tf.shape(index)[0]):
            x = tf.gather(vectors, index[step])
            sums += self._distributed_step(x, y[step], weight[step], total[step])
        return sums

    def _all_reduce(self, values: Any) -> Any:
        tf = self._tf
        # The copies are on the replica's device, where the sums have to come back to.
        return tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, tf.nest.map_structure(tf.identity, values)
        )

    def _distributed_sum(self, values: Any) -> Any:
        return self._strategy.run(self._all_reduce, args=(values,))

    def sum(self, values: Array) -> Array:
        """The sum of an array over all workers."""
        return np.asarray(self._sum(self._tf.constant(values)))

    def train(self, mine: Share, truth: Array) -> Array:
        """Run an epoch; returns this worker's sum of losses and of hits."""
        tf = self._tf
        y, weight, total = (tf.constant(a) for a in (truth[mine.index], mine.weight, mine.total))
        if isinstance(self._source, CachedSource):
            index = tf.constant(mine.index)
            return np.asarray(self._epoch(self._source.tensor(tf), index, y, weight, total))
        sums = np.zeros(2)
        for step, x in enumerate(self._source(mine.index)):
            sums += self._step(tf.constant(x), y[step], weight[step], total[step]).numpy()
        return sums

    def measure(self, images: Array, truth: Array) -> Array:
        """This worker's sum of losses and of hits over its share of some images."""
        mine = self._mine(images)
        sums = np.zeros(2)
        for index, weight, logits in self._answers(mine):
            peak = logits.max(axis=1)
            total = peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))
            y = truth[index]
            losses = total - logits[np.arange(len(y)), y]
            sums += [weight @ losses, weight @ (logits.argmax(axis=1) == y)]
        return sums

    def logits(self, images: Array) -> Array:
        """Logits (n, labels) of some images, zero for those of other workers' shares."""
        table = np.zeros((len(images), self._config.labels))
        mine = self._mine(np.arange(len(images)))
        located = replace(mine, index=images[mine.index]) if len(images) else mine
        for rows, (_, weight, logits) in zip(mine.index, self._answers(located), strict=True):
            table[rows[weight > 0]] = logits[weight > 0]
        return table

    def _mine(self, images: Array) -> Share:
        return share(images, max(self._config.batch_size, 256), self._rank, self._world)

    def _answers(self, mine: Share) -> Iterator[tuple[Array, Array, Array]]:
        for step, x in enumerate(self._source(mine.index)):
            yield mine.index[step], mine.weight[step], self._forward(x).numpy()

    def state(self, epoch: int, before: State | None) -> State:
        """The variables as they are now."""
        top = [np.asarray(variable) for variable in self.top.weights]
        optimizer = [np.asarray(variable) for variable in self._optimizer.variables]
        if before is None:
            return State(epoch, top, optimizer, top, 0, float("inf"))
        return replace(before, epoch=epoch, top=top, optimizer=optimizer)

    def restore(self, state: State) -> None:
        """Set the variables to a state's."""
        self.set_top(state.top)
        for variable, value in zip(self._optimizer.variables, state.optimizer, strict=True):
            variable.assign(value)

    def set_top(self, values: list[Array]) -> None:
        """Set the top's variables."""
        for variable, value in zip(self.top.weights, values, strict=True):
            variable.assign(value)


class CachedSource:
    """Features that are in memory: float32 of shape (n, width)."""

    def __init__(self, vectors: Array) -> None:
        self._vectors = vectors
        self._tensor: Any = None

    def tensor(self, tf: Any) -> Any:
        """All features on the device, copied there once."""
        if self._tensor is None:
            self._tensor = tf.constant(self._vectors)
        return self._tensor

    def __call__(self, index: Array) -> Iterator[Array]:
        for step in index:
            yield self._vectors[step]
