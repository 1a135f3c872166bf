"""The data-parallel training loop, under tf.distribute and independent of Ray.

Every worker draws the same seeded permutation and takes its rank's share of each step. Gradients
are summed over the workers before Adam's update.

Several heads are trained side by side on the same batches. Head k does not learn from the images of
fold k and is measured on them, so each image in a fold is predicted by a head that has not seen it.
A last head, without a fold, learns from all images.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from monkeyray.arrays import Array
from monkeyray.errors import ConfigError
from monkeyray.model.backbones import Weights, import_keras
from monkeyray.statistics.metrics import cross_entropies
from monkeyray.statistics.splits import Folds
from monkeyray.training.fitting.worker import State, Worker

#: A validation loss must fall by this much (nats) to count as better.
_MIN_DELTA = 1e-4


@dataclass(frozen=True)
class FitConfig:
    """The settings of a training by epochs. Units as in TrainConfig.

    `keep_start`: the variables are already trained. They are measured first, and an epoch counts as
    better only if its accuracy is no lower. The learning rate rises during the first epoch and
    then falls to 0 along a cosine. If the training diverges, the best epoch so far is kept.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float
    l2: float
    seed: int
    checkpoint_seconds: float
    keep_start: bool = False


class Learner(Protocol):
    """One or several heads to train. `compiled`: whether XLA compiles the gradients. `penalised`:
    the variables with an L2 penalty."""

    heads: int
    dtype: str
    compiled: bool
    variables: list[Any]
    penalised: list[Any]

    def logits(self, x: Any) -> Any:
        """Map a batch from the source, (b, ...), to logits (b, heads, labels) of `dtype`."""

    def weights(self) -> Weights:
        """The variables by name, float32."""


class Source(Protocol):
    """Where batches come from: cached features, or images decoded on the fly."""

    def __call__(self, index: Array, epoch: int | None) -> Iterator[Array]:
        """For index (steps, b), each step's batch (b, ...), in order.

        `epoch`: the training epoch, None for images that are measured.
        """


@dataclass(frozen=True)
class Share:
    """One worker's share of some steps: `index` and `real` (0 for padding), each (steps, b)."""

    index: Array
    real: Array


def share(order: Array, batch_size: int, rank: int, world: int) -> Share:
    """Cut an order of images into steps, and take every `world`-th image of each from `rank` on.

    The last step, and steps that do not divide evenly, are padded.
    """
    steps = -(-len(order) // batch_size)
    # Padding costs as much as an image if features are not cached.
    wide = -(-min(batch_size, len(order)) // world) * world
    index = np.zeros((steps, wide), np.int64)
    real = np.zeros((steps, wide))
    for step in range(steps):
        images = order[step * batch_size : (step + 1) * batch_size]
        index[step, : len(images)] = images
        real[step, : len(images)] = 1.0
    return Share(index[:, rank::world], real[:, rank::world])


def fit(config: FitConfig, learner: Learner, folds: Folds, source: Source, worker: Worker) -> State:
    """Train until the loss on the held-out images stops falling, and set the learner to the best
    epoch's variables.

    The `train_` figures of an epoch are those of the last head; the `validation_` figures are of
    all held-out images, each by the head that does not learn from it. Checkpoints are at least
    `checkpoint_seconds` apart. With `keep_start` the figures of the start come first, as epoch 0.
    Raises ConfigError on every worker if a loss is not finite and there is no start to keep.
    """
    loop, resume = _Loop(config, learner, folds, source, worker), worker.resume
    learned, measured = folds.learned(learner.heads), len(folds.held_out(learner.heads))
    last_learns = folds.seen(learned, learner.heads)[:, -1].sum()
    if resume is None:
        state = _begin(loop, config)
        for figures in state.history:
            worker.on_epoch(figures)
    else:
        state = resume
        if not resume.done:
            state = replace(resume, resumed_from=[*resume.resumed_from, resume.epoch])
    loop.restore(state)
    last = time.monotonic()
    while not state.done:
        epoch = state.epoch + 1
        order = np.random.default_rng([config.seed, epoch]).permutation(learned)
        train = loop.train(order, epoch)
        validation = loop.validation_sums()
        due = worker.rank == 0 and time.monotonic() - last >= config.checkpoint_seconds
        # Summed over all workers; the last is positive if a checkpoint is due.
        sums = worker.sum(np.array([*train, *validation, float(due)]))
        if not np.isfinite(sums).all():
            if config.keep_start:
                state = replace(state, done=True, diverged=True)
                break
            raise ConfigError(
                f"training diverged in epoch {epoch}: lower --learning-rate (it is "
                f"{config.learning_rate:g})"
            )
        figures = {
            "epoch": epoch,
            "train_loss": sums[0] / last_learns,
            "train_accuracy": sums[1] / last_learns,
            **_validation_figures(sums[2:5], measured),
        }
        worker.on_epoch(figures)
        state = _advance(loop, state, figures, config)
        if sums[5] > 0 and not state.done:
            worker.checkpoint(state)
            last = time.monotonic()
    loop.set_variables(state.best)
    return state


def _validation_figures(sums: Array, images: int) -> dict[str, float]:
    return {
        "validation_loss": float(sums[0] / sums[2]),
        "validation_accuracy": float(sums[1] / images),
    }


def _begin(loop: _Loop, config: FitConfig) -> State:
    state = loop.state(0, None)
    if not config.keep_start:
        return state
    sums = loop.worker.sum(loop.validation_sums())
    found = _validation_figures(sums, len(loop.held_out))
    figures = {"epoch": 0, "train_loss": None, "train_accuracy": None, **found}
    return replace(state, best_loss=found["validation_loss"], history=[figures])


def _advance(loop: _Loop, state: State, figures: dict[str, Any], config: FitConfig) -> State:
    new = loop.state(int(figures["epoch"]), state)
    new = replace(new, history=[*state.history, figures])
    start = state.history[0]["validation_accuracy"] if config.keep_start else 0.0
    if (
        figures["validation_loss"] < state.best_loss - _MIN_DELTA
        and figures["validation_accuracy"] >= start
    ):
        new = replace(
            new, best=new.variables, best_epoch=new.epoch, best_loss=figures["validation_loss"]
        )
    return replace(new, done=_stale(new) >= config.patience or new.epoch >= config.epochs)


def _stale(state: State) -> int:
    """Epochs since the one with the lowest validation loss. The start does not count: the first
    epochs are often worse than it, and later ones better.
    """
    best, lowest = 0, float("inf")
    for figures in state.history:
        if figures["epoch"] and figures["validation_loss"] < lowest - _MIN_DELTA:
            best, lowest = figures["epoch"], figures["validation_loss"]
    return state.epoch - best


class _Loop:
    """The TensorFlow side: one replica's variables and its compiled steps."""

    def __init__(
        self,
        config: FitConfig,
        learner: Learner,
        folds: Folds,
        source: Source,
        worker: Worker,
    ) -> None:
        strategy, keras = worker.strategy, import_keras()
        import tensorflow as tf

        self._folds, self.held_out = folds, folds.held_out(learner.heads)
        self._tf, self._config, self._source, self._strategy = tf, config, source, strategy
        self.worker, self._world = worker, worker.world
        # Against the sum of the losses, as that of a linear head.
        self._penalty = config.l2 / 2 / max(1, len(folds.learned(learner.heads)))
        self._weight = np.ones(len(folds.truth)) if folds.weight is None else folds.weight
        # Plain variables, equal on all workers by their seed; the strategy only sums gradients.
        self._learner = learner
        self._optimizer = keras.optimizers.Adam(self._rate(keras))
        self._optimizer.build(learner.variables)
        self._dtype = tf.as_dtype(learner.dtype)
        # AutoGraph would leave files in the temporary folder when the process is killed.
        compiled = functools.partial(tf.function, autograph=False)
        self._gradients = compiled(self._compute_gradients, jit_compile=learner.compiled)
        self._update = compiled(self._apply_gradients, jit_compile=learner.compiled)
        self._step = compiled(self._distributed_step, reduce_retracing=True)
        # A single worker runs an epoch as one XLA kernel.
        alone = worker.world == 1 and learner.compiled
        self._epoch = compiled(
            self._distributed_epoch, reduce_retracing=not alone, jit_compile=alone
        )
        self._forward = compiled(
            lambda x: tf.cast(learner.logits(x), tf.float64), reduce_retracing=True
        )

    def _rate(self, keras: Any) -> Any:
        """The learning rate; with `keep_start` a schedule over the optimizer's step count, which a
        checkpoint restores."""
        config = self._config
        if not config.keep_start:
            return config.learning_rate
        learned = self._folds.learned(self._learner.heads)
        steps = -(-len(learned) // config.batch_size)
        # Adam's first steps have no scale yet and would destroy good weights without a warm-up.
        return keras.optimizers.schedules.CosineDecay(
            0.0,
            decay_steps=max(1, (config.epochs - 1) * steps),
            warmup_target=config.learning_rate,
            warmup_steps=steps,
        )

    def _compute_gradients(self, x: Any, y: Any, real: Any, weight: Any, total: Any) -> Any:
        tf = self._tf
        variables = self._learner.variables
        with tf.GradientTape() as tape:
            logits = self._learner.logits(x)
            labels = tf.repeat(y[:, None], self._learner.heads, axis=1)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            losses *= real * weight[:, None]
            kernels = self._learner.penalised
            penalty = tf.add_n([tf.reduce_sum(v.value**2) for v in kernels])
            loss = tf.reduce_sum(losses / total) + self._penalty * penalty / self._world
        hits = real[:, -1] * tf.cast(tf.equal(tf.argmax(logits[:, -1], axis=1), y), self._dtype)
        return tape.gradient(loss, variables), tf.stack(
            [tf.reduce_sum(losses[:, -1]), tf.reduce_sum(hits)]
        )

    def _apply_gradients(self, gradients: Any) -> None:
        self._optimizer.apply(gradients, self._learner.variables)

    def _distributed_step(self, x: Any, y: Any, real: Any, weight: Any, total: Any) -> Any:
        gradients, sums = self._gradients(x, y, real, weight, total)
        if self._world > 1:
            gradients = self._strategy.run(self._all_reduce, args=(gradients,))
        self._update(gradients)
        return sums

    def _distributed_epoch(
        self, vectors: Any, index: Any, y: Any, real: Any, weight: Any, total: Any
    ) -> Any:
        """All steps of an epoch in one call, on cached features."""
        tf = self._tf
        steps = tf.shape(index)[0]

        def one(step: Any, sums: Any) -> tuple[Any, Any]:
            x = tf.gather(vectors, index[step])
            found = self._distributed_step(x, y[step], real[step], weight[step], total[step])
            return step + 1, sums + found

        start = (tf.constant(0), tf.zeros(2, self._dtype))
        return tf.while_loop(lambda step, sums: step < steps, one, start)[1]

    def _all_reduce(self, values: Any) -> Any:
        tf = self._tf
        # Copies on the replica's device, where the sums must return.
        return tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, tf.nest.map_structure(tf.identity, values)
        )

    def train(self, order: Array, epoch: int) -> Array:
        """Run an epoch over images in an order; returns this worker's sum of losses and of hits of
        the last head."""
        tf, batch = self._tf, self._config.batch_size
        mine, all_workers = (
            share(order, batch, self.worker.rank, self._world),
            share(order, batch, 0, 1),
        )
        total = self._seen(all_workers).sum(axis=1)
        y = tf.constant(self._folds.truth[mine.index])
        real, weight, total = (
            tf.constant(array, self._dtype)
            # A small step may have no image that a head learns from.
            for array in (self._seen(mine), self._weight[mine.index], np.maximum(total, 1))
        )
        if isinstance(self._source, CachedSource) and self._source.fits:
            index = tf.constant(mine.index)
            vectors = self._source.tensor(tf)
            return np.asarray(self._epoch(vectors, index, y, real, weight, total))
        sums = np.zeros(2)
        for step, x in enumerate(self._source(mine.index, epoch)):
            sums += self._step(tf.constant(x), y[step], real[step], weight[step], total[step])
        return sums

    def _seen(self, steps: Share) -> Array:
        return steps.real[..., None] * self._folds.seen(steps.index, self._learner.heads)

    def validation_sums(self) -> Array:
        """The sums of weighted losses, of hits and of weights over this worker's share of the
        held-out images."""
        sums, heads = np.zeros(3), self._learner.heads
        mine = share(
            self.held_out, max(self._config.batch_size, 256), self.worker.rank, self._world
        )
        for step, x in enumerate(self._source(mine.index, None)):
            index, real = mine.index[step], mine.real[step]
            # Padding may repeat an image that is in no fold.
            its_head = np.clip(self._folds.fold[index], 0, heads - 1)
            logits = self._forward(x).numpy()[np.arange(len(index)), its_head]
            y, weight = self._folds.truth[index], real * self._weight[index]
            losses = cross_entropies(logits, y)
            sums += [weight @ losses, real @ (logits.argmax(axis=1) == y), weight.sum()]
        return sums

    def state(self, epoch: int, before: State | None) -> State:
        """The current state."""
        variables = [np.asarray(variable) for variable in self._learner.variables]
        optimizer = [np.asarray(variable) for variable in self._optimizer.variables]
        if before is None:
            return State(epoch, variables, optimizer, variables, 0, float("inf"))
        return replace(before, epoch=epoch, variables=variables, optimizer=optimizer)

    def restore(self, state: State) -> None:
        """Set the variables to a state's."""
        self.set_variables(state.variables)
        for variable, value in zip(self._optimizer.variables, state.optimizer, strict=True):
            variable.assign(value)

    def set_variables(self, values: list[Array]) -> None:
        """Set the learner's variables."""
        for variable, value in zip(self._learner.variables, values, strict=True):
            variable.assign(value)


@dataclass(frozen=True)
class LoopTraining:
    """Training by epochs. `make_learner` is called on the worker."""

    config: FitConfig
    make_learner: Callable[[], Learner]
    folds: Folds
    source: Source

    def __call__(self, worker: Worker) -> tuple[State, Weights]:
        """See Training."""
        _ = worker.strategy  # TensorFlow's settings must come before its first use
        learner = self.make_learner()
        return fit(self.config, learner, self.folds, self.source, worker), learner.weights()


#: Features that are copied to the device as a whole, at most. Others are read step by step.
_MOST_BYTES = 2**31


class CachedSource:
    """Features in memory or in a file: float32 of shape (n, width)."""

    def __init__(self, vectors: Array) -> None:
        self._vectors = vectors
        self._tensor: Any = None

    @property
    def fits(self) -> bool:
        """Whether all features fit on the device together."""
        return self._vectors.nbytes <= _MOST_BYTES

    def tensor(self, tf: Any) -> Any:
        """All features on the device, copied there once."""
        if self._tensor is None:
            self._tensor = tf.constant(self._vectors)
        return self._tensor

    def __call__(self, index: Array, epoch: int | None) -> Iterator[Array]:
        for step in index:
            yield self._vectors[step]
