"""What is trained: the head alone, or the last layers of the backbone together with the head."""

from __future__ import annotations

from typing import Any

import numpy as np

from monkeyray.console import silence_stderr
from monkeyray.model.backbones import (
    BACKBONES,
    Weights,
    build_backbone,
    last_layers,
    named_weights,
    unfreeze,
)
from monkeyray.model.head import build_head, kernels
from monkeyray.model.network import Network, embed


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


class FineTuneLearner:
    """A network from pixels to logits, of which the last layers and the head are trained.

    It computes in float32, so the same number of workers gives the same weights and another number
    almost the same. BatchNorm stays in inference mode and keeps its ImageNet statistics.
    """

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
        """uint8 pixels (b, views, size, size, 3) to logits (b, labels)."""
        import tensorflow as tf

        features = tf.reduce_mean(embed(self._backbone, self._spec, x), axis=1)
        return self._head(features, training=False)

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
