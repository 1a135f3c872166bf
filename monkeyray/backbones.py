"""The frozen networks: a table of their facts, and where their weights come from."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from monkeyray.errors import ConfigError, ObjectError
from monkeyray.progress import hushed
from monkeyray.storage import Storage
from monkeyray.uris import normalise

#: Weights in the order of keras.Model.get_weights(), each under "index/path of the variable".
Weights = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Backbone:
    """One network without its top, global average pooling at its end.

    `builder`: module and name in keras.applications, a string so that nothing loads Keras early.
    `size`: side of its square input in pixels. `width`: length of its feature vector. `scale`,
    `offset`: its preprocessing, uint8 pixels p become p * scale + offset.
    """

    builder: str
    size: int
    width: int
    scale: float
    offset: float
    packaged: str | None = None


BACKBONES: dict[str, Backbone] = {
    "mobilenet": Backbone(
        "MobileNet", 224, 1024, 1 / 127.5, -1.0, packaged="mobilenet_imagenet.safetensors"
    ),
    "inception_v3": Backbone("InceptionV3", 299, 2048, 1 / 127.5, -1.0),
}


def import_keras() -> Any:
    """Keras on TensorFlow, set up before its first import."""
    # oneDNN is off by default on AMD and doubles the speed of MobileNet there.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if "keras" in sys.modules:
        return sys.modules["keras"]
    with hushed():
        return importlib.import_module("keras")


def build_base(name: str, weights: Weights | None = None, seed: int = 0) -> Any:
    """The keras.Model of a backbone: float32 (n, size, size, 3), preprocessed, to (n, width).

    Without `weights` it is initialised at random from `seed`.
    """
    keras = import_keras()
    backbone = BACKBONES[name]
    if weights is None:
        keras.utils.set_random_seed(seed)
    builder = getattr(keras.applications, backbone.builder)
    shape = (backbone.size, backbone.size, 3)
    model = builder(include_top=False, weights=None, input_shape=shape, pooling="avg")
    model.trainable = False
    if weights is not None:
        model.set_weights([array.astype(np.float32) for array in _in_order(weights)])
    return model


def load_weights(name: str, source: str, storage: Storage, seed: int = 0) -> Weights:
    """The weights that `--weights` names: imagenet, none, or the URI of a Keras file.

    Raises ConfigError when they cannot be had or do not fit the network.
    """
    backbone = BACKBONES[name]
    if source == "none":
        return named_weights(build_base(name, seed=seed))
    if source == "imagenet" and backbone.packaged:
        from safetensors.numpy import load

        packaged = resources.files("monkeyray") / "data" / backbone.packaged
        return load(packaged.read_bytes())  # type: ignore[no-any-return]
    if source == "imagenet":
        return _download(name)
    return _from_keras_file(name, normalise(source), storage)


def named_weights(model: Any) -> Weights:
    """A Keras model's weights under names that sort in their order."""
    return {
        f"{index:04d}/{variable.path}": np.asarray(variable)
        for index, variable in enumerate(model.weights)
    }


def _in_order(weights: Weights) -> list[np.ndarray[Any, Any]]:
    return [weights[key] for key in sorted(weights)]


def _download(name: str) -> Weights:
    keras = import_keras()
    backbone = BACKBONES[name]
    builder = getattr(keras.applications, backbone.builder)
    shape = (backbone.size, backbone.size, 3)
    try:
        model = builder(include_top=False, weights="imagenet", input_shape=shape, pooling="avg")
    except Exception as error:  # Keras wraps any network error in a bare Exception
        raise ConfigError(
            f"cannot download the ImageNet weights of {name} ({type(error).__name__}): download "
            "Keras's notop file elsewhere and give it with --weights PATH"
        ) from error
    return named_weights(model)


def _from_keras_file(name: str, uri: str, storage: Storage) -> Weights:
    if not uri.endswith(".h5"):
        raise ConfigError(
            f"--weights {uri}: give imagenet, none, or a Keras file that ends in .h5 "
            "(….weights.h5 or …_notop.h5)"
        )
    try:
        data = storage.read(uri).data
    except ObjectError as error:
        raise ConfigError(
            f"--weights {uri} cannot be read: {error}: correct the path, or leave --weights out "
            "for the ImageNet weights"
        ) from error
    model = build_base(name)
    with tempfile.TemporaryDirectory() as folder:
        # Keras chooses its reader by the name, and reads local files only.
        path = Path(folder) / uri.rsplit("/", 1)[-1]
        path.write_bytes(data)
        try:
            model.load_weights(path)
        except Exception as error:  # h5py and Keras raise many kinds
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--weights {uri} does not fit {name} without its top: {reason}"
            ) from error
    return named_weights(model)
