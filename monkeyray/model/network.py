"""The network, and TensorFlow's engine for it: pixels to features and logits in one graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monkeyray.arrays import Array, Floats
from monkeyray.model.backbones import (
    BACKBONES,
    Backbone,
    OnnxBackbone,
    Weights,
    build_backbone,
    import_keras,
    weights_hash,
)
from monkeyray.model.head import build_head
from monkeyray.storage.keys import fingerprint


@dataclass(frozen=True)
class Network:
    """A backbone, the views it takes of an image, and its head if it has one: everything an engine
    is built from.

    `backbone`: a key of BACKBONES, or ONNX, whose properties are `onnx`. `views`: names of
    views.VIEWS; the head gets the mean of their features. `head_widths`: widths of the Dense layers
    before the softmax; `labels`: number of labels. `int8`: the backbone quantised, as
    int8.to_arrays has it, for `--precision int8`.
    """

    backbone: str
    backbone_weights: Weights
    views: tuple[str, ...]
    head_weights: Weights | None = None
    head_widths: tuple[int, ...] = ()
    labels: int = 0
    int8: Weights | None = None
    onnx: OnnxBackbone | None = None

    @property
    def spec(self) -> Backbone | OnnxBackbone:
        """The properties of the backbone."""
        return self.onnx or BACKBONES[self.backbone]

    @property
    def size(self) -> int:
        """Side of the square input in pixels."""
        return self.spec.size

    def backbone_hash(self) -> str:
        """The hash of what turns pixels into features, 64 hexadecimal digits."""
        weights = weights_hash(self.backbone_weights)
        return weights if self.onnx is None else fingerprint([weights, asdict(self.onnx)])


def network_graph(features: Any, parameters: list[Any], network: Network) -> Any:
    """The openvino.Model of a network from the OpenVINO output with its features (n, views, width):
    with the mean over views and the layers of head.build_head, if it has a head."""
    import openvino
    from openvino import opset13 as ops

    outputs = [features]
    if network.head_weights is not None:
        weights = network.head_weights
        layers = [np.asarray(weights[name], np.float32) for name in sorted(weights)]
        values = ops.reduce_mean(features, np.array([1]), keep_dims=False)
        for place, (kernel, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
            values = ops.add(ops.matmul(values, kernel, False, False), bias)
            if place < len(network.head_widths):
                values = ops.relu(values)
        outputs.append(values.output(0))
    return openvino.Model(outputs, parameters, "network")


class TensorFlowEngine:
    """Runs a network with preprocessing, backbone and head fused into one graph.

    `precision`: float32, or mixed: the backbone computes in float16 on a GPU and bfloat16 on a CPU,
    with float32 weights. Preprocessing, the mean over views and the head always use float32.
    """

    def __init__(self, network: Network, precision: str = "float32") -> None:
        import_keras()
        import tensorflow as tf

        assert network.onnx is None
        spec = BACKBONES[network.backbone]
        policy = "float32"
        if precision == "mixed":
            policy = "mixed_float16" if tf.config.list_physical_devices("GPU") else "mixed_bfloat16"
        backbone = build_backbone(network.backbone, network.backbone_weights, policy=policy)
        head = None
        if network.head_weights is not None:
            head = build_head(spec.width, network.head_widths, network.labels, network.head_weights)
        shape, width = (None, None, network.size, network.size, 3), spec.width

        def run(pixels: Any) -> tuple[Any, Any]:
            features = embed(backbone, spec, pixels)
            if head is None:
                return features, tf.zeros((tf.shape(features)[0], 0))
            return features, head(tf.reduce_mean(features, axis=1), training=False)

        # AutoGraph would leave files in the temporary folder when the process is killed.
        signature = [tf.TensorSpec(shape, tf.uint8)]
        self._run = tf.function(run, input_signature=signature, autograph=False)
        self._empty = (
            np.empty((0, len(network.views), width), np.float32),
            np.empty((0, network.labels if head is not None else 0), np.float32),
        )

    def graph(self) -> Any:
        """The tf.ConcreteFunction of the network."""
        return self._run.get_concrete_function()

    def __call__(self, pixels: Array) -> tuple[Floats, Floats]:
        """uint8 pixels (n, views, size, size, 3) to features (n, views, width) and logits
        (n, labels).

        Without a head the logits have shape (n, 0).
        """
        if not len(pixels):
            return self._empty
        features, logits = self._run(pixels)
        return features.numpy(), logits.numpy()


def embed(backbone: Any, spec: Backbone, pixels: Any) -> Any:
    """The features (n, views, width) of uint8 pixels (n, views, size, size, 3), as tensors, with
    the backbone in inference mode: BatchNorm uses its stored statistics."""
    import tensorflow as tf

    flat = tf.reshape(pixels, (-1, *pixels.shape[2:]))
    scaled = tf.cast(flat, tf.float32) * spec.scale + spec.offset
    features = tf.cast(backbone(scaled, training=False), tf.float32)
    return tf.reshape(features, (-1, tf.shape(pixels)[1], spec.width))
