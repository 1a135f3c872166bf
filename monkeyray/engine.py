"""A batch of pixels to features and probabilities, in one TensorFlow graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from monkeyray.backbones import BACKBONES, Weights, build_base, import_keras
from monkeyray.head import build_top

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Network:
    """A base, and the top on it if there is one: all that an engine is built from.

    `head`: widths of the Dense layers before the softmax; `labels`: number of labels.
    """

    backbone: str
    base: Weights
    top: Weights | None = None
    head: tuple[int, ...] = ()
    labels: int = 0

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return BACKBONES[self.backbone].size


class TensorFlowEngine:
    """Runs a network with preprocessing, base and top fused into one graph, in float32."""

    def __init__(self, network: Network) -> None:
        keras = import_keras()
        import tensorflow as tf

        backbone = BACKBONES[network.backbone]
        base = build_base(network.backbone, network.base)
        top = None
        if network.top is not None:
            top = build_top(backbone.width, network.head, network.labels, network.top)

        def run(pixels: Any) -> tuple[Any, Any]:
            scaled = tf.cast(pixels, tf.float32) * backbone.scale + backbone.offset
            features = base(scaled, training=False)
            if top is None:
                return features, tf.zeros((tf.shape(features)[0], 0))
            return features, keras.ops.softmax(top(features, training=False))

        shape = (None, network.size, network.size, 3)
        self._run = tf.function(run, input_signature=[tf.TensorSpec(shape, tf.uint8)])
        self._width = backbone.width
        self._labels = network.labels if top is not None else 0

    def __call__(self, pixels: np.ndarray[Any, Any]) -> tuple[Floats, Floats]:
        """uint8 pixels (n, size, size, 3) to features (n, width) and probabilities (n, labels).

        Without a top there are no labels, so the second is of shape (n, 0).
        """
        if not len(pixels):
            return np.empty((0, self._width), np.float32), np.empty((0, self._labels), np.float32)
        features, probabilities = self._run(pixels)
        return features.numpy(), probabilities.numpy()
