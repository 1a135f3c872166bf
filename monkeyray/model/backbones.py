"""The backbones: a table of their properties, their blocks, and their weights."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.console import silence_stderr
from monkeyray.environment import environment
from monkeyray.errors import BundleError, ConfigError, ObjectError
from monkeyray.model.keras_file import read_keras_file
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: The arrays of keras.Model.get_weights(), in that order, named "index/path of the variable".
Weights = Mapping[str, Array]

#: Maximum size of a weights file. The largest backbone has 100 MB, three times that with optimizer.
MOST_BYTES = 2**30


@dataclass(frozen=True)
class Backbone:
    """A network without its classification head, with global average pooling.

    `builder`: name in keras.applications, a string so that Keras loads late. `size`: side of the
    square input in pixels. `width`: length of the feature vector. `scale`, `offset`: preprocessing
    of uint8 pixels p to p * scale + offset; 1 and 0 if the network preprocesses itself.
    `block_end`: matches the name of the last layer of each block. `packaged`: the file of ImageNet
    weights in this package.
    """

    builder: str
    size: int
    width: int
    scale: float
    offset: float
    block_end: str
    packaged: str | None = None

    def preprocessing(self) -> dict[str, Any]:
        """What a bundle records of the preprocessing, in JSON types."""
        return {"scale": self.scale, "offset": self.offset}


_V3_BLOCK = r"conv_bn|expanded_conv(_\d+)?_project_bn"

BACKBONES: dict[str, Backbone] = {
    "mobilenet": Backbone(
        "MobileNet", 224, 1024, 1 / 127.5, -1.0, r"(conv1|conv_pw_\d+)_relu",
        packaged="mobilenet_imagenet.safetensors",
    ),
    "mobilenet_v2": Backbone(
        "MobileNetV2", 224, 1280, 1 / 127.5, -1.0,
        r"Conv1_relu|(expanded_conv|block_\d+)_project_BN",
    ),
    "mobilenet_v3_small": Backbone("MobileNetV3Small", 224, 576, 1.0, 0.0, _V3_BLOCK),
    "mobilenet_v3_large": Backbone("MobileNetV3Large", 224, 960, 1.0, 0.0, _V3_BLOCK),
    "efficientnet_v2_b0": Backbone(
        "EfficientNetV2B0", 224, 1280, 1.0, 0.0, r"stem_bn|block\d+[a-z]_project_bn"
    ),
    "resnet50_v2": Backbone(
        "ResNet50V2", 224, 2048, 1 / 127.5, -1.0, r"pool1_pool|conv\d_block\d+_out"
    ),
    # Its other layers have generic names; the stem counts as part of the first block.
    "inception_v3": Backbone("InceptionV3", 299, 2048, 1 / 127.5, -1.0, r"mixed\d+"),
}  # fmt: skip


#: The name of a backbone that came as an ONNX file, whose weights have the one array of that name,
#: uint8: the bytes of the file.
ONNX = "onnx"


@dataclass(frozen=True)
class OnnxBackbone:
    """The properties of a backbone that came as an ONNX file.

    `size`, `width`: as in Backbone. `scale`, `offset`: by channel, as in Backbone. `pool`: none if
    the file's output is the features (n, width), mean over the `axes` of that output, or cls, the
    first of its tokens (n, tokens, width).
    """

    size: int
    width: int
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    pool: str = "none"
    axes: tuple[int, ...] = ()

    def preprocessing(self) -> dict[str, Any]:
        """What a bundle records of the preprocessing and the pooling, in JSON types."""
        return {
            "scale": list(self.scale),
            "offset": list(self.offset),
            "pool": self.pool,
            "axes": list(self.axes),
        }

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> OnnxBackbone:
        """That of a model.json. Raises BundleError if it is none."""
        given, size, width = model["preprocessing"], model["input_size"], model["feature_width"]
        lists = [given.get(name) for name in ("scale", "offset", "axes")]
        if (
            not (type(size) is int and 0 < size <= MOST_PIXELS)
            or not (type(width) is int and 0 < width <= MOST_FEATURES)
            or not all(isinstance(each, list) for each in lists)
            or [len(each) for each in lists[:2]] != [3, 3]
            or not all(type(x) is float and abs(x) < 1000 for x in lists[0] + lists[1])
            or (given.get("pool"), lists[2]) not in _POOLINGS
        ):
            raise BundleError("its preprocessing is not that of an ONNX backbone")
        scale, offset, axes = map(tuple, lists)
        return cls(size, width, scale, offset, given["pool"], axes)


#: Limits of a backbone that came as a file: side of its input, and length of its feature vector.
MOST_PIXELS, MOST_FEATURES = 4096, 2**16

#: The ways from an output to features: of tokens, and of maps with channels first or last.
_POOLINGS: tuple[tuple[str, list[int]], ...] = (
    ("none", []), ("cls", []), ("mean", [1]), ("mean", [2, 3]), ("mean", [1, 2]),
)  # fmt: skip


@dataclass(frozen=True)
class FineTune:
    """The meaning of `--fine-tune`: the last `count` trainable layers, or blocks."""

    count: int
    blocks: bool

    def __str__(self) -> str:
        what = "block" if self.blocks else "layer"
        return f"{self.count} {what}{'s' if self.count > 1 else ''}"


def import_keras(backend: str = "tensorflow") -> Any:
    """Import Keras. The first call sets its backend and settings; the caller's KERAS_BACKEND is
    restored."""
    # oneDNN is off by default on AMD and doubles the speed of MobileNet there.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GLOG_minloglevel", "2")
    if "keras" in sys.modules:
        return sys.modules["keras"]
    with environment(KERAS_BACKEND=backend), silence_stderr():
        keras = importlib.import_module("keras")
    _set(keras.config, _settings(keras))
    return keras


def _settings(keras: Any, policy: str = "float32") -> dict[str, Any]:
    # OpenVINO's own layout: otherwise every layer has two transpositions, at a third of the speed.
    # TensorFlow has no other on CPUs.
    first = keras.backend.backend() == "openvino"
    return {
        "floatx": "float32",
        "epsilon": 1e-7,
        "image_data_format": "channels_first" if first else "channels_last",
        "dtype_policy": policy,
    }


def _set(config: Any, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        getattr(config, f"set_{name}")(value)


@contextlib.contextmanager
def keras_settings(keras: Any, policy: str = "float32") -> Iterator[None]:
    """Keras as our networks need it, whatever keras.json or the caller has set, which is restored
    at the end. `policy`: the dtype policy, such as mixed_bfloat16."""
    settings = _settings(keras, policy)
    before = {name: getattr(keras.config, name)() for name in settings}
    _set(keras.config, settings)
    try:
        yield
    finally:
        _set(keras.config, before)


def build_backbone(
    name: str, weights: Weights | None = None, seed: int = 0, policy: str = "float32"
) -> Any:
    """The keras.Model of a backbone: float32 (n, size, size, 3), preprocessed, to (n, width).

    Without `weights` it is initialised from `seed`. `policy`: the Keras dtype policy, such as
    mixed_bfloat16.
    """
    keras = import_keras()
    spec = BACKBONES[name]
    if weights is None:
        keras.utils.set_random_seed(seed)
    builder = getattr(keras.applications, spec.builder)
    shape: tuple[int, ...] = (spec.size, spec.size, 3)
    with keras_settings(keras, policy):
        if keras.config.image_data_format() == "channels_first":
            shape = (3, spec.size, spec.size)
        model = builder(include_top=False, weights=None, input_shape=shape, pooling="avg")
    model.trainable = False
    if weights is not None:
        model.set_weights([array.astype(np.float32) for array in _in_order(weights)])
    return model


def load_weights(name: str, source: str, storage: Storage, seed: int = 0) -> Weights:
    """The weights of `--weights`: imagenet, none, or the URI of a Keras file.

    Raises ConfigError if they are not available or do not fit the network.
    """
    spec = BACKBONES[name]
    if source == "none":
        return named_weights(build_backbone(name, seed=seed))
    if source == "imagenet" and spec.packaged:
        from safetensors.numpy import load

        packaged = resources.files("monkeyray.model") / "data" / spec.packaged
        return load(packaged.read_bytes())  # type: ignore[no-any-return]
    if source == "imagenet":
        return _download(name)
    return _from_keras_file(name, Location.parse(source), storage)


def named_weights(model: Any) -> Weights:
    """A Keras model's weights under names that sort in their order.

    The layers' names do not depend on how many models were built before.
    """
    steady = _steady_names(model)
    weights = {}
    for index, variable in enumerate(model.weights):
        path = "/".join(steady.get(part, part) for part in variable.path.split("/"))
        weights[f"{index:04d}/{path}"] = np.asarray(variable)
    return weights


def weights_hash(weights: Weights) -> str:
    """SHA-256 of weights, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        array = np.ascontiguousarray(weights[key])
        digest.update(f"{key} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def parse_fine_tune(spec: str) -> FineTune:
    """Parse `--fine-tune`: a number of layers or, such as 2-blocks, of blocks.

    >>> parse_fine_tune("20"), parse_fine_tune("1-block")
    (FineTune(count=20, blocks=False), FineTune(count=1, blocks=True))
    """
    match = re.fullmatch("([0-9]{1,4})(-blocks?)?", spec)
    if match is None or int(match[1]) == 0:
        raise ConfigError(
            f"--fine-tune is {spec!r}: give the number of layers to train from the end, such as "
            "20, or of blocks, such as 2-blocks; leave it out to train none"
        )
    return FineTune(int(match[1]), blocks=match[2] is not None)


def last_layers(model: Any, name: str, spec: str) -> list[Any]:
    """The layers of a backbone that `--fine-tune` means, in the order of the model.

    `model`: from build_backbone(`name`). Layers without weights do not count, nor does
    BatchNormalization, which is never trained: its statistics come from far more images. Raises
    ConfigError if there are fewer.
    """
    wanted = parse_fine_tune(spec)
    blocks = _blocks(model, name)
    units = blocks if wanted.blocks else [[layer] for block in blocks for layer in block]
    if wanted.count > len(units):
        raise ConfigError(
            f"--fine-tune {spec}: {name} has {FineTune(len(units), wanted.blocks)} to train: give "
            "at most that"
        )
    return [layer for unit in units[-wanted.count :] for layer in unit]


def unfreeze(model: Any, layers: list[Any]) -> None:
    """Make only these layers of a backbone trainable.

    Call the model with training=False even in training: EfficientNetV2 has Dropout.
    """
    trained = {id(layer) for layer in layers}
    # A frozen model hides the trainable variables of its layers.
    model.trainable = True
    for layer in model.layers:
        layer.trainable = id(layer) in trained


def _blocks(model: Any, name: str) -> list[list[Any]]:
    """The trainable layers, by block; the layers after the last block end are a block too."""
    keras = import_keras()
    blocks: list[list[Any]] = [[]]
    # Keras sorts layers by distance from the output, so a block's layers precede its end.
    for layer in model.layers:
        if layer.weights and not isinstance(layer, keras.layers.BatchNormalization):
            blocks[-1].append(layer)
        if re.fullmatch(BACKBONES[name].block_end, layer.name):
            blocks.append([])
    return [block for block in blocks if block]


def _steady_names(model: Any) -> dict[str, str]:
    """Layer names without the numbers that Keras adds: conv2d for conv2d_95."""
    names = {layer.name: layer.name for layer in model.layers}
    for layer in model.layers:
        stem = re.sub(r"_\d+$", "", layer.name)
        # Keras names layers by their lower-case class, and never adds _0.
        if stem.replace("_", "") == type(layer).__name__.lower() and f"{stem}_0" not in names:
            names[layer.name] = stem
    return names


def _in_order(weights: Weights) -> list[Array]:
    return [weights[key] for key in sorted(weights)]


def _download(name: str) -> Weights:
    keras = import_keras()
    spec = BACKBONES[name]
    builder = getattr(keras.applications, spec.builder)
    shape = (spec.size, spec.size, 3)
    try:
        with keras_settings(keras):
            model = builder(include_top=False, weights="imagenet", input_shape=shape, pooling="avg")
    except Exception as error:  # Keras wraps any network error in a bare Exception
        raise ConfigError(
            f"cannot download the ImageNet weights of {name} ({type(error).__name__}): download "
            "Keras's notop file elsewhere and pass it with --weights PATH"
        ) from error
    return named_weights(model)


def _from_keras_file(name: str, place: Location, storage: Storage) -> Weights:
    if not place.name.endswith((".h5", ".hdf5")):
        hint = ""
        if place.name.endswith(".keras"):
            hint = (
                "; from a whole .keras file, save the backbone with "
                "backbone.save_weights('x.weights.h5')"
            )
        raise ConfigError(
            f"--weights {place}: give imagenet, none, or a Keras file that ends in .h5 "
            f"(….weights.h5, …_notop.h5 or …_no_top.h5){hint}"
        )
    try:
        data = storage.read(place, MOST_BYTES).data
    except ObjectError as error:
        raise ConfigError(
            f"--weights {place} cannot be read: {error}: correct the path, or leave --weights out "
            "for the ImageNet weights"
        ) from error
    model = build_backbone(name)
    read_keras_file(data, model, f"--weights {place}", name)
    return named_weights(model)
