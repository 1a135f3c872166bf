"""The head of a training: its settings, its learner on cached features, and its training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from monkeyray.model.backbones import BACKBONES, Weights, named_weights
from monkeyray.model.head import build_head, kernels
from monkeyray.model.network import Network
from monkeyray.training.dataset import Dataset, identify
from monkeyray.training.distributed import Outcome, Task
from monkeyray.training.job import Job
from monkeyray.training.loop import CachedSource, FitConfig
from monkeyray.training.options import TrainConfig, parse_head


class HeadLearner:
    """A head that is trained on the features of a frozen backbone.

    It computes in float64, so that the order of summation has no effect in float32 and any number
    of workers ends with the same weights.
    """

    dtype = "float64"

    #: XLA fuses Adam's many small kernels.
    compiled = True

    def __init__(self, features: int, widths: tuple[int, ...], labels: int, seed: int) -> None:
        self._head = build_head(features, widths, labels, seed=seed, dtype=self.dtype)
        self.variables = list(self._head.trainable_variables)
        self.penalised = kernels(self._head)

    def logits(self, x: Any) -> Any:
        """Features (b, width) to logits (b, labels)."""
        import tensorflow as tf

        return self._head(tf.cast(x, tf.float64))

    def weights(self) -> Weights:
        """The variables as float32 by name."""
        return {key: value.astype(np.float32) for key, value in named_weights(self._head).items()}


def train_head(job: Job, network: Network, data: Dataset) -> Outcome:
    """Train the head of a network on the features of the images, and one on each fold."""
    fit_config, make_learner = head_training(job.config, len(data.labels))
    source, stage = CachedSource(data.vectors.mean(axis=1)), job.tracking.stage("head")
    task = Task(fit_config, data.splits, make_learner, source, data.folds, stage)
    return job.run(
        task, identify(job.config, network, data) | {"head": parse_head(job.config.head)}
    )


def head_training(config: TrainConfig, labels: int) -> tuple[FitConfig, Callable[[], HeadLearner]]:
    """How a head for this many labels is trained, and what makes its learner."""
    widths = parse_head(config.head)
    seed = config.seed if config.head_seed is None else config.head_seed
    fit_config = FitConfig(
        epochs=config.epochs,
        patience=config.patience or (5 if widths else 10),
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or (3e-4 if widths else 3e-3),
        l2=(0.0 if widths else 1e-3) if config.l2 is None else config.l2,
        seed=seed,
        checkpoint_seconds=config.checkpoint_seconds,
    )
    width = BACKBONES[config.backbone].width
    return fit_config, functools.partial(HeadLearner, width, widths, labels, seed)
