"""Fine-tuning: the last layers of the backbone are trained together with the head."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from monkeyray.arrays import Array
from monkeyray.console import silence_stderr
from monkeyray.model.backbones import (
    BACKBONES,
    Weights,
    build_backbone,
    last_layers,
    named_weights,
    unfreeze,
    weights_hash,
)
from monkeyray.model.head import build_head, kernels, scale_logits
from monkeyray.model.network import Network, embed
from monkeyray.training.assess import assess_validation
from monkeyray.training.dataset import Dataset, identify
from monkeyray.training.fitting.distributed import Outcome, Task, below
from monkeyray.training.fitting.loop import FitConfig, LoopTraining
from monkeyray.training.fitting.pixels import pixel_source
from monkeyray.training.job import Job


def fine_tune(
    job: Job, network: Network, data: Dataset, layers: str
) -> tuple[Network, Array, dict[str, Any]]:
    """Train the last layers of a network whose head has not seen the first fold. The best epoch,
    and whether to keep the result, are decided on that fold.

    Returns the fine-tuned network and its features of the images, or the given ones if it was not
    better, and the figures for the bundle's metrics.
    """
    job.reporter.say(f"fine-tuning: {layers} of {network.backbone}")
    assert network.head_weights is not None
    before = assess_validation(data, data.vectors, network.head_weights)
    # Starts from calibrated logits, so that an epoch cannot look better by being more confident.
    start = scale_logits(network.head_weights, 1 / before["temperature"])
    tuned = _run_fine_tuning(job, replace(network, head_weights=start), data, layers)
    job.seconds["head"] += tuned.seconds
    figures = tuned.figures | {
        "layers": layers,
        "diverged": tuned.state.diverged,
        "before": before,
        "after": None,
        "kept": False,
    }
    if tuned.state.best_epoch:
        backbone, head = (below(tuned.weights, name) for name in ("backbone", "head"))
        other = replace(network, backbone_weights=backbone, head_weights=head)
        vectors = job.features(other, data.images)
        after = assess_validation(data, vectors, head)
        better = after["loss"] < before["loss"] and after["accuracy"] >= before["accuracy"]
        figures |= {"after": after, "kept": better}
        if better:
            return other, vectors, figures
    return network, data.vectors, figures


def _run_fine_tuning(job: Job, network: Network, data: Dataset, layers: str) -> Outcome:
    config = job.config
    training = LoopTraining(
        FitConfig(
            epochs=config.fine_tune_epochs,
            patience=config.patience or 5,
            batch_size=config.batch_size,
            learning_rate=config.fine_tune_rate,
            l2=0.0,
            seed=config.seed,
            checkpoint_seconds=config.checkpoint_seconds,
            keep_start=True,
        ),
        functools.partial(FineTuneLearner, network, layers),
        data.folds,
        pixel_source(config, job.storage, network, data),
    )
    task = Task(training, job.tracking.stage("fine_tuning"), "fine-tuning")
    assert network.head_weights is not None
    start = {"head": weights_hash(network.head_weights), "layers": layers}
    return job.run(task, identify(config, network, data) | start)


class FineTuneLearner:
    """A network from pixels to logits whose last layers and head are trained.

    It computes in float32: the same number of workers gives the same weights, a different number
    nearly the same. BatchNorm stays in inference mode and keeps its ImageNet statistics.
    """

    heads = 1
    dtype = "float32"

    #: On CPUs, XLA's convolutions are slower than oneDNN's.
    compiled = False

    def __init__(self, network: Network, layers: str) -> None:
        """`layers`: a value of --fine-tune. The network must have a trained head."""
        self._spec = BACKBONES[network.backbone]
        self._backbone = build_backbone(network.backbone, network.backbone_weights)
        self._head = build_head(
            self._spec.width, network.head_widths, network.labels, network.head_weights
        )
        chosen = last_layers(self._backbone, network.backbone, layers)
        unfreeze(self._backbone, chosen)
        self.variables = [
            *(variable for layer in chosen for variable in layer.trainable_variables),
            *self._head.trainable_variables,
        ]

        # No penalty on the backbone, whose pretrained kernels should not shrink.
        self.penalised = kernels(self._head)

    def logits(self, x: Any) -> Any:
        """Map uint8 pixels (b, views, size, size, 3) to logits (b, 1, labels)."""
        import tensorflow as tf

        features = tf.reduce_mean(embed(self._backbone, self._spec, x), axis=1)
        return self._head(features, training=False)[:, None]

    def weights(self) -> Weights:
        """All weights of the network, under backbone/ and head/."""
        return {
            **{f"backbone/{key}": value for key, value in named_weights(self._backbone).items()},
            **{f"head/{key}": value for key, value in named_weights(self._head).items()},
        }


def check_fine_tune(network: Network, layers: str) -> None:
    """Raise ConfigError if --fine-tune asks for more layers than the backbone has."""
    with silence_stderr():  # TensorFlow logs its search for a GPU
        backbone = build_backbone(network.backbone)
    last_layers(backbone, network.backbone, layers)
