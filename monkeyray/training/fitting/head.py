"""The heads of a training: a linear one, or one with Dense layers, on cached features."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.model.backbones import Weights, import_keras, named_weights
from monkeyray.model.head import build_head
from monkeyray.model.network import Network
from monkeyray.scoring.features import mean_views
from monkeyray.statistics.learning_curve import subset_ranks
from monkeyray.statistics.splits import Folds
from monkeyray.training.dataset import RARE_IMAGES, Dataset, identify
from monkeyray.training.fitting.distributed import Outcome, Task
from monkeyray.training.fitting.linear import L2, LinearConfig, LinearTraining
from monkeyray.training.fitting.loop import CachedSource, FitConfig, LoopTraining
from monkeyray.training.fitting.worker import Training
from monkeyray.training.job import Job
from monkeyray.training.options import TrainConfig, parse_head

#: The learning curve is skipped with fewer images of a label, since their subsets are nearly the
#: same, and with more images in all, since it takes as long as the heads themselves.
_CURVE_LEAST, _CURVE_MOST = 10, 20_000


class HeadLearner:
    """Heads with Dense layers, trained side by side on the features of a frozen backbone.

    It computes in float64, so that the order of summation hardly shows in float32: the weights
    agree to 1e-5 with any number of workers.
    """

    dtype = "float64"

    #: XLA fuses Adam's many small kernels.
    compiled = True

    def __init__(
        self, features: int, widths: tuple[int, ...], labels: int, heads: int, seed: int
    ) -> None:
        """All heads begin with the same weights."""
        head = build_head(features, widths, labels, seed=seed, dtype=self.dtype)
        keras, start = import_keras(), named_weights(head)
        self.heads = heads
        self._names = sorted(start)
        self.variables = [
            keras.Variable(np.repeat(start[name][None], heads, axis=0), dtype=self.dtype)
            for name in self._names
        ]
        self.penalised = self.variables[::2]

    def logits(self, x: Any) -> Any:
        """Features (b, width) to logits (b, heads, labels)."""
        import tensorflow as tf

        values, layers = tf.cast(x, tf.float64), self.variables
        for number in range(0, len(layers), 2):
            kernel, bias = layers[number].value, layers[number + 1].value
            if number:
                values = tf.einsum("bhi,hio->bho", tf.nn.relu(values), kernel)
            else:
                values = tf.einsum("bi,hio->bho", values, kernel)
            values += bias
        return values

    def weights(self) -> Weights:
        """The variables as float32, named `<head>/<variable>`."""
        return {
            f"{head}/{name}": np.asarray(variable)[head].astype(np.float32)
            for name, variable in zip(self._names, self.variables, strict=True)
            for head in range(self.heads)
        }


def train_head(job: Job, network: Network, data: Dataset) -> Outcome:
    """Train one head per fold on the other folds, and a last one on all images."""
    vectors = job.trainer.share(mean_views(data.vectors))
    training = head_training(job.config, data.folds, vectors, len(data.labels))
    if isinstance(training, LinearTraining):
        training = replace(training, subsets=_subsets(data))
    identity = identify(job.config, network, data) | {"head": parse_head(job.config.head)}
    return job.run(Task(training, job.tracking.stage("head")), identity)


def _subsets(data: Dataset) -> dict[float, Array]:
    """For each fraction of the learning curve, which images are in the subset, bool (n,). Empty if
    the curve is skipped."""
    learned = data.folds.truth[~data.test]
    fewest = np.bincount(learned).min()
    if fewest < _CURVE_LEAST or len(learned) > _CURVE_MOST:
        return {}
    ranks = subset_ranks(data.folds.truth, data.groups, data.folds.fold, 0)
    # With few images, a quarter and a half are nearly the same.
    shares = (0.25, 0.5) if fewest >= RARE_IMAGES else (0.5,)
    return {share: ranks < share for share in shares}


def head_training(
    config: TrainConfig, folds: Folds, vectors: Array, labels: int, *, last: bool = True
) -> Training:
    """How the fold heads and the last one are trained on features of shape (n, width).

    `last`: whether a last head with Dense layers is trained at all; the fold heads are the same
    without it. Linear heads are solved together.
    """
    widths, heads = parse_head(config.head), folds.count + 1
    if not widths:
        settings = LinearConfig(
            config.epochs, L2 if config.l2 is None else config.l2, config.checkpoint_seconds
        )
        return LinearTraining(settings, folds, vectors, labels, heads)
    seed = config.seed if config.head_seed is None else config.head_seed
    fit_config = FitConfig(
        epochs=config.epochs,
        patience=config.patience or 5,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or 3e-4,
        l2=config.l2 or 0.0,
        seed=seed,
        checkpoint_seconds=config.checkpoint_seconds,
    )
    heads -= not last
    make = functools.partial(HeadLearner, vectors.shape[1], widths, labels, heads, seed)
    return LoopTraining(fit_config, make, folds, CachedSource(vectors))
