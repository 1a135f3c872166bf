"""The linear head: multinomial logistic regression with an L2 penalty, to convergence.

The loss is convex, so the result does not depend on a seed. Every worker runs the same L-BFGS: it
computes the loss and its gradient over its own shares of the images, and gets those of the other
workers through `all_reduce`. Nothing else is exchanged. The shares, and the order in which they are
added up, are the same for any number of workers and threads, and so are the heads.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.model.backbones import Weights
from monkeyray.statistics.splits import Folds
from monkeyray.training.fitting.worker import State, Worker

#: The penalty, and the largest gradient of the mean loss at which to stop. Both were chosen by
#: measurement and suit any number of images (docs/pages/decisions.md).
L2, TOLERANCE = 10.0, 1e-4

#: Images that are converted to float64 at a time.
_ROWS = 1024

#: How many shares the images are cut into, a power of two. More workers would have no work.
_SHARES = 16

#: How many steps L-BFGS remembers, and the maximum that it takes; 50 to 150 are typical.
_MEMORY, _STEPS = 20, 2000


@dataclass(frozen=True)
class Progress:
    """`values`: the variables of all heads after a step, float64, from which to resume. `loss`: the
    sum of the penalised losses of all heads, nats. `measures`: sums (4,): the weighted loss and the
    hits of the last head on its training images, then those of the held-out images, each by its
    fold head. `due`: what the callback `due` answered."""

    values: Array
    loss: float
    measures: Array
    due: bool


def fit_linear(
    vectors: Array,
    truth: Array,
    weight: Array,
    labels: int,
    l2: float = L2,
    *,
    images: Array | None = None,
    rank: int = 0,
    world: int = 1,
    threads: int | None = 1,
    all_reduce: Callable[[Array], Array] = lambda values: values,
    fold: Array | None = None,
    start: Array | None = None,
    steps: int = _STEPS,
    due: Callable[[], bool] = lambda: False,
    on_step: Callable[[Progress], None] = lambda progress: None,
    tolerance: float = TOLERANCE,
) -> list[Weights]:
    """Fit linear heads. Each has weights named as in `head_logits`: a kernel, float32
    (width, labels), and a bias, float32 (labels,).

    `vectors`: features (n, width), of which the rows `images` are used, int (m,), or all if None;
    they may be in a file, and each worker reads its shares block by block. `truth`: label indices
    of these images (m,); `weight`: each image's weight in each head's loss, float (m, heads), 0 for
    images that a head must not see. A head minimises the weighted sum of the cross-entropies plus
    l2 / 2 times the sum of squares of its kernel, on features scaled by one number to a mean
    variance of 1. The bias is not penalised; that of a label without images falls until the fit
    converges, so the head never predicts the label.

    All workers get the same arguments except `rank` (of `world`) and `threads` (about one per core
    if None); `all_reduce` sums an array over the workers. The heads are the same to the last bit
    with any number of workers and threads. `fold`: the index of the head that each image is held
    out of, int (m,), negative for none. `on_step` is called on all workers after each of at most
    `steps` steps; `due` is called on worker 0, and all workers get its answer. To resume, pass the
    `values` of a Progress as `start`: the result is the same within the tolerance.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    heads, width = weight.shape[1], vectors.shape[1]
    images = np.arange(len(vectors)) if images is None else images
    mean, scale = _mean_and_scale(vectors, images)
    its_fold = np.full(len(images), -1) if fold is None else fold
    ends = len(images) * np.arange(_SHARES + 1) // _SHARES
    own = range(_SHARES * rank // world, _SHARES * (rank + 1) // world)
    # If all workers have equally many shares, each sends one sum. Otherwise it sends each share, so
    # that they are always added up in the same order.
    slots = world if _SHARES % world == 0 else _SHARES
    biases, extra = heads * labels, 6
    size = extra + (width + 1) * biases
    last: list[Array] = []

    def sums(kernel: Array, bias: Array, share: int) -> Array:
        """The loss, measures, 0 for `due`, and gradient of a share of the images, float64 (size,).
        The gradient is without the penalty, and of features neither centred nor scaled."""
        found = np.zeros(size)
        gradient, end = found[extra:].reshape(width + 1, biases), ends[share + 1]
        for first in range(ends[share], end, _ROWS):
            rows = slice(first, min(first + _ROWS, end))
            features = vectors[images[rows]].astype(np.float64)
            logits = (features @ kernel + bias).reshape(-1, heads, labels)
            logits -= logits.max(axis=2, keepdims=True)
            right = np.arange(len(features)), slice(None), truth[rows]
            losses, hits = -logits[right], logits.argmax(axis=2) == truth[rows, None]
            np.exp(logits, out=logits)
            total = logits.sum(axis=2, keepdims=True)
            losses += np.log(total[:, :, 0])
            logits /= total
            logits[right] -= 1.0
            logits *= weight[rows, :, None]
            residuals = logits.reshape(-1, biases)
            found[0] += (weight[rows] * losses).sum()
            found[1 : extra - 1] += _measure(losses, hits, weight[rows], its_fold[rows])
            gradient[:-1] += features.T @ residuals
            gradient[-1] += residuals.sum(axis=0)
        return found

    def objective(values: Array) -> tuple[float, Array]:
        both = values.reshape(width + 1, biases)
        # Instead of centring and scaling each image's features, change the kernel and the bias.
        kernel = both[:-1] / scale
        bias = both[-1] - mean @ kernel
        parts = pool.map(lambda share: sums(kernel, bias, share), own)
        known, each = np.zeros((slots, size)), _SHARES // slots
        for slot in range(own.start // each, own.stop // each):
            known[slot] = _add_up(parts, each)
        known[0, extra - 1] = rank == 0 and due()
        # Adding the zeros of other workers is exact, but turns -0.0 into 0.0; so does this.
        found = _add_up(iter(all_reduce(known)), slots) + 0.0
        last[:] = [found[1:extra]]
        gradient = found[extra:].reshape(width + 1, biases)
        gradient[:-1] = (gradient[:-1] - np.outer(mean, gradient[-1])) / scale + l2 * both[:-1]
        return float(found[0] + l2 / 2 * (both[:-1].ravel() @ both[:-1].ravel())), gradient.ravel()

    def step(intermediate_result: Any) -> None:
        loss, (*measures, due_now) = float(intermediate_result.fun), last[0]
        on_step(Progress(intermediate_result.x.copy(), loss, np.array(measures), due_now > 0))

    values = np.zeros((width + 1) * biases) if start is None else start
    # With another number of threads, BLAS rounds differently.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        if steps:
            values = minimize(
                objective,
                values,
                jac=True,
                method="L-BFGS-B",
                callback=step,
                options={
                    "maxcor": _MEMORY,
                    "maxiter": steps,
                    "maxfun": 2 * steps + 20,
                    "ftol": 0.0,
                    "gtol": tolerance * float(weight.sum(axis=0).min()),
                },
            ).x
        both = values.reshape(width + 1, heads, labels)
        return [_fold_scale(both[:-1, head], both[-1, head], mean, scale) for head in range(heads)]


def _add_up(parts: Iterator[Array], count: int) -> Array:
    """The sum of the next `count` parts, a power of two: in pairs, then the sums in pairs, …"""
    if count == 1:
        return next(parts)
    return _add_up(parts, count // 2) + _add_up(parts, count // 2)


def _measure(losses: Array, hits: Array, weight: Array, its_fold: Array) -> Array:
    """Progress.measures of some images. All arrays are (n, heads), except `its_fold`, (n,)."""
    held = np.flatnonzero(its_fold >= 0)
    its = held, its_fold[held]
    return np.array(
        [
            weight[:, -1] @ losses[:, -1],
            hits[weight[:, -1] > 0, -1].sum(),
            weight[held].max(axis=1) @ losses[its] if len(held) else 0.0,
            hits[its].sum(),
        ]
    )


def _mean_and_scale(vectors: Array, images: Array) -> tuple[Array, float]:
    """The mean of each feature over some images, float64 (width,), and the square root of their
    mean variance.

    Scaling each feature by its own deviation would amplify the noise of nearly constant ones.
    """
    mean = _sum(vectors, images, lambda values: None) / len(images)

    def square(values: Array) -> None:
        values -= mean
        values *= values

    variance = _sum(vectors, images, square) / len(images)
    return mean, float(np.sqrt(variance.mean())) or 1.0


def _sum(vectors: Array, images: Array, change: Callable[[Array], None]) -> Array:
    """The sum over images of their features in float64 (b, width) after `change`, added row after
    row, as NumPy does."""
    # The sum so far comes first.
    block = np.zeros((_ROWS + 1, vectors.shape[1]))
    for start in range(0, len(images), _ROWS):
        some = images[start : start + _ROWS]
        rows = slice(1, len(some) + 1)
        block[rows] = vectors[some]
        change(block[rows])
        block[0] = block[: len(some) + 1].sum(axis=0)
    return np.asarray(block[0])


def _fold_scale(kernel: Array, bias: Array, mean: Array, scale: float) -> Weights:
    """Fold the centring and scaling of the features into the head's kernel and bias."""
    kernel = kernel / scale
    return {
        "0000": kernel.astype(np.float32),
        "0001": (bias - mean @ kernel).astype(np.float32),
    }


@dataclass(frozen=True)
class LinearConfig:
    """`epochs`: maximum number of L-BFGS steps, each at least one pass over all images. `l2`: see
    `fit_linear`."""

    epochs: int
    l2: float
    checkpoint_seconds: float


@dataclass(frozen=True)
class LinearTraining:
    """A linear head for each fold, and a last one for all images. `vectors`: (n, width).

    `subsets`: by fraction of the images, which are in the subset, bool (n,). Each has fold heads of
    its own, which learn from that subset only.
    """

    config: LinearConfig
    folds: Folds
    vectors: Array
    labels: int
    heads: int
    subsets: Mapping[float, Array] = field(default_factory=dict)

    def __call__(self, worker: Worker) -> tuple[State, Weights]:
        """See Training. Each step counts as an epoch. A resumed training gives the same heads as an
        uninterrupted one, within the tolerance."""
        state = worker.resume or State(0, [], [], [], 0, float("inf"))
        if worker.resume is not None and not state.done:
            state = replace(state, resumed_from=[*state.resumed_from, state.epoch])
        config, folds, learned = self.config, self.folds, self.folds.learned(self.heads)
        weight = np.ones(len(folds.truth)) if folds.weight is None else folds.weight
        held = folds.held_out(self.heads)
        last = time.monotonic()

        def on_step(progress: Progress) -> None:
            nonlocal state, last
            train_loss, train_hits, held_loss, held_hits = progress.measures.tolist()
            figures = {
                "epoch": state.epoch + 1,
                "train_loss": train_loss / len(learned),
                "train_accuracy": train_hits / len(learned),
                "validation_loss": held_loss / weight[held].sum(),
                "validation_accuracy": held_hits / len(held),
            }
            worker.on_epoch(figures)
            state = replace(
                state,
                epoch=state.epoch + 1,
                variables=[progress.values],
                best_epoch=state.epoch + 1,
                best_loss=figures["validation_loss"],
                history=[*state.history, figures],
            )
            if progress.due:
                worker.checkpoint(state)
                last = time.monotonic()

        fit = functools.partial(
            fit_linear,
            self.vectors,
            labels=self.labels,
            l2=config.l2,
            rank=worker.rank,
            world=worker.world,
            threads=worker.threads,
            all_reduce=worker.sum,
        )
        found = fit(
            folds.truth[learned],
            weight[learned, None] * folds.seen(learned, self.heads),
            images=learned,
            fold=np.where(folds.fold < self.heads, folds.fold, -1)[learned],
            start=state.variables[0] if state.variables else None,
            steps=0 if state.done else max(0, config.epochs - state.epoch),
            due=lambda: time.monotonic() - last >= config.checkpoint_seconds,
            on_step=on_step,
        )
        weights = _named("", found)
        for fraction, subset in self.subsets.items():
            some = learned[subset[learned]]
            seen = folds.seen(some, folds.count)
            found = fit(folds.truth[some], weight[some, None] * seen, images=some)
            weights |= _named(f"subset-{fraction}/", found)
            weights[f"subset-{fraction}/images"] = seen.sum(axis=0).mean(keepdims=True)
        return replace(state, done=True), weights


def _named(prefix: str, heads: list[Weights]) -> dict[str, Array]:
    return {
        f"{prefix}{number}/{name}": array
        for number, head in enumerate(heads)
        for name, array in head.items()
    }
