"""Fine-tuning: the last layers of the backbone are trained together with the head."""

from __future__ import annotations

from typing import Any

from monkeyray.console import silence_stderr
from monkeyray.model.backbones import (
    BACKBONES,
    Weights,
    build_backbone,
    last_layers,
    named_weights,
    unfreeze,
)
from monkeyray.model.engine import Network, embed
from monkeyray.model.head import build_head, kernels


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
