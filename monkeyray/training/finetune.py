"""Fine-tuning: the last layers of the base are trained together with the top that is on it."""

from __future__ import annotations

from typing import Any

from monkeyray.model.backbones import (
    BACKBONES,
    Weights,
    build_base,
    last_layers,
    named_weights,
    unfreeze,
)
from monkeyray.model.engine import Network, embed
from monkeyray.model.head import build_top, kernels
from monkeyray.progress import silence_stderr


class FineTuneLearner:
    """A network from pixels to logits, of which the last layers and the top are trained.

    In float32, as the base is, so that sums in another order give other last digits: the same
    number of workers gives the same weights, another one almost the same. BatchNorm stays in
    inference mode: its statistics come from a million images and not from a batch.
    """

    dtype = "float32"

    #: XLA's convolutions on a CPU are slower than oneDNN's.
    compiled = False

    def __init__(self, network: Network, layers: str) -> None:
        """`layers`: as --fine-tune says them; `network` has the top that was trained before."""
        self._backbone = BACKBONES[network.backbone]
        self._base = build_base(network.backbone, network.base)
        self._top = build_top(self._backbone.width, network.head, network.labels, network.top)
        chosen = last_layers(self._base, network.backbone, layers)
        unfreeze(self._base, chosen)
        self.variables = [
            *(variable for layer in chosen for variable in layer.trainable_variables),
            *self._top.trainable_variables,
        ]

        # The base's kernels are good as they are: nothing should pull them to zero.
        self.penalised = kernels(self._top)

    def logits(self, x: Any) -> Any:
        """uint8 pixels (b, views, size, size, 3) to logits (b, labels)."""
        import tensorflow as tf

        features = tf.reduce_mean(embed(self._base, self._backbone, x), axis=1)
        return self._top(features, training=False)

    def weights(self) -> Weights:
        """All weights of the network, under base/ and top/."""
        return {
            **{f"base/{key}": value for key, value in named_weights(self._base).items()},
            **{f"top/{key}": value for key, value in named_weights(self._top).items()},
        }


def check_fine_tune(network: Network, layers: str) -> None:
    """Raise ConfigError for more layers than the base has, before anything is done."""
    with silence_stderr():  # TensorFlow's first operation looks for a GPU, and tells
        base = build_base(network.backbone)
    last_layers(base, network.backbone, layers)
