"""The head: Dense relu layers on the features of the backbone, then one logit per label."""

from __future__ import annotations

from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.model.backbones import Weights, import_keras, keras_settings

#: Features converted at a time.
_ROWS = 2**15


def build_head(
    features: int,
    widths: tuple[int, ...],
    labels: int,
    weights: Weights | None = None,
    *,
    seed: int = 0,
    dtype: str = "float32",
) -> Any:
    """The keras.Model of a head: (n, features) to logits (n, labels).

    `widths`: of the Dense layers before the logits.

    Without `weights` it is initialised from `seed` (Glorot uniform), equally on every worker.
    """
    keras = import_keras()
    with keras_settings(keras):
        layers = [keras.Input((features,), dtype=dtype)]
        for index, width in enumerate([*widths, labels]):
            layers.append(
                keras.layers.Dense(
                    width,
                    activation="relu" if index < len(widths) else None,
                    kernel_initializer=keras.initializers.GlorotUniform(seed=seed * 1000 + index),
                    dtype=dtype,
                    name=f"dense_{index}",
                )
            )
        model = keras.Sequential(layers, name="head")
    if weights is not None:
        model.set_weights([np.asarray(weights[key], dtype) for key in sorted(weights)])
    return model


def head_logits(weights: Weights, features: Array) -> Array:
    """Logits, float64 of shape (n, labels), of a head on features of shape (n, width).

    It computes the same as the network, in NumPy, so that cached features need no TensorFlow.
    """
    layers = [np.asarray(weights[key], np.float64) for key in sorted(weights)]
    logits = np.empty((len(features), len(layers[-1])))
    for start in range(0, len(features), _ROWS):
        values = np.asarray(features[start : start + _ROWS], np.float64)
        for kernel, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
            values = np.maximum(values @ kernel + bias, 0.0)
        logits[start : start + _ROWS] = values @ layers[-2] + layers[-1]
    return logits


def scale_logits(weights: Weights, factor: float) -> Weights:
    """The weights of a head whose logits are `factor` times those of the given one."""
    last = sorted(weights)[-2:]
    return {
        key: np.asarray(array * np.float32(factor), array.dtype) if key in last else array
        for key, array in weights.items()
    }


def kernels(head: Any) -> list[Any]:
    """The variables of a head with an L2 penalty: all but its biases."""
    return [variable for variable in head.trainable_variables if len(variable.shape) > 1]
