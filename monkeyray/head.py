"""The new top: Dense relu layers on the features of the base, then one logit for each label."""

from __future__ import annotations

from typing import Any

import numpy as np

from monkeyray.backbones import Weights, import_keras


def build_top(
    features: int,
    head: tuple[int, ...],
    labels: int,
    weights: Weights | None = None,
    *,
    seed: int = 0,
    dtype: str = "float32",
) -> Any:
    """The keras.Model of a top: (n, features) to logits (n, labels).

    Without `weights` it is initialised from `seed` (Glorot uniform), the same on every worker.
    """
    keras = import_keras()
    layers = [keras.Input((features,), dtype=dtype)]
    for index, width in enumerate([*head, labels]):
        layers.append(
            keras.layers.Dense(
                width,
                activation="relu" if index < len(head) else None,
                kernel_initializer=keras.initializers.GlorotUniform(seed=seed * 1000 + index),
                dtype=dtype,
                name=f"dense_{index}",
            )
        )
    model = keras.Sequential(layers, name="top")
    if weights is not None:
        model.set_weights([np.asarray(weights[key], dtype) for key in sorted(weights)])
    return model
