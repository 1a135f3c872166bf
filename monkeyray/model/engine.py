"""A batch of pixels to features and logits, in one graph of TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from monkeyray.model.backbones import BACKBONES, Backbone, Weights, build_base, import_keras
from monkeyray.model.head import build_top

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Network:
    """A base, what it sees of an image, and the top on it if there is one: all that an engine is
    built from.

    `views`: names of views.VIEWS; the top gets the mean of their features. `head`: widths of the
    Dense layers before the softmax; `labels`: number of labels. `int8`: the base once more, as
    int8.to_arrays has it, for the precision of that name.
    """

    backbone: str
    base: Weights
    views: tuple[str, ...]
    top: Weights | None = None
    head: tuple[int, ...] = ()
    labels: int = 0
    int8: Weights | None = None

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return BACKBONES[self.backbone].size


class TensorFlowEngine:
    """Runs a network with preprocessing, base and top fused into one graph.

    `precision`: float32, or mixed: the base computes in float16 on a GPU and in bfloat16 on a CPU,
    with weights in float32; preprocessing, the mean over views and the top are in float32 always.
    """

    def __init__(self, network: Network, precision: str = "float32") -> None:
        import_keras()
        import tensorflow as tf

        backbone = BACKBONES[network.backbone]
        policy = "float32"
        if precision == "mixed":
            policy = "mixed_float16" if tf.config.list_physical_devices("GPU") else "mixed_bfloat16"
        base = build_base(network.backbone, network.base, policy=policy)
        top = None
        if network.top is not None:
            top = build_top(backbone.width, network.head, network.labels, network.top)
        shape, width = (None, None, network.size, network.size, 3), backbone.width

        def run(pixels: Any) -> tuple[Any, Any]:
            features = embed(base, backbone, pixels)
            if top is None:
                return features, tf.zeros((tf.shape(features)[0], 0))
            return features, top(tf.reduce_mean(features, axis=1), training=False)

        self._run = tf.function(run, input_signature=[tf.TensorSpec(shape, tf.uint8)])
        self._empty = (
            np.empty((0, len(network.views), width), np.float32),
            np.empty((0, network.labels if top is not None else 0), np.float32),
        )

    def graph(self) -> Any:
        """The tf.ConcreteFunction that it runs."""
        return self._run.get_concrete_function()

    def __call__(self, pixels: np.ndarray[Any, Any]) -> tuple[Floats, Floats]:
        """uint8 pixels (n, views, size, size, 3) to features (n, views, width) and logits
        (n, labels).

        Without a top there are no labels, so the second is of shape (n, 0).
        """
        if not len(pixels):
            return self._empty
        features, logits = self._run(pixels)
        return features.numpy(), logits.numpy()


def embed(base: Any, backbone: Backbone, pixels: Any) -> Any:
    """The tensor of features (n, views, width) of a tensor of uint8 pixels (n, views, size, size,
    3), with the base in inference mode: its BatchNorm uses the statistics that it came with."""
    import tensorflow as tf

    flat = tf.reshape(pixels, (-1, *pixels.shape[2:]))
    scaled = tf.cast(flat, tf.float32) * backbone.scale + backbone.offset
    features = tf.cast(base(scaled, training=False), tf.float32)
    return tf.reshape(features, (-1, tf.shape(pixels)[1], backbone.width))
