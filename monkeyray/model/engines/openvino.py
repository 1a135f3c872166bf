"""OpenVINO engine: pixels to features and logits in one graph; the fastest on CPUs."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from monkeyray.arrays import Array, Floats
from monkeyray.console import silence_stderr
from monkeyray.model.backbones import (
    BACKBONES,
    build_backbone,
    import_keras,
    weights_hash,
)
from monkeyray.model.engines.int8 import int8_model, refusal
from monkeyray.model.engines.onnx import onnx_model
from monkeyray.model.engines.runtimes import compile_model, import_openvino, unreported
from monkeyray.model.head import build_head
from monkeyray.model.network import Network, TensorFlowEngine

#: Bump when the code below builds a different graph.
_GRAPH_VERSION = 1

#: How many graphs are kept; the least recently used one is deleted first.
_KEPT = 8


class OpenVinoEngine:
    """Runs a network with preprocessing, backbone and head in one graph, in one stream.

    It uses OMP_NUM_THREADS threads, one by default.
    """

    def __init__(self, network: Network, precision: str = "float32") -> None:
        """Raises ConfigError if OpenVINO is not installed, BundleError for an int8 backbone that is
        damaged or that OpenVINO cannot run."""
        core = import_openvino().Core()
        model = int8_model(network, core) if precision == "int8" else _model(network, core)
        try:
            self._compiled = compile_model(core, model, precision)
        except RuntimeError as error:
            if precision != "int8":
                raise
            raise refusal(error) from error
        self._request = self._compiled.create_infer_request()
        width = network.spec.width
        self._labels = network.labels if network.head_weights is not None else 0
        self._empty = (
            np.empty((0, len(network.views), width), np.float32),
            np.empty((0, self._labels), np.float32),
        )

    def __call__(self, pixels: Array) -> tuple[Floats, Floats]:
        """See TensorFlowEngine."""
        if not len(pixels):
            return self._empty
        # Input is shared; outputs are copied, since the next call overwrites them.
        self._request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
        features = self._request.get_output_tensor(0).data.copy()
        if not self._labels:
            return features, np.empty((len(pixels), 0), np.float32)
        return features, self._request.get_output_tensor(1).data.copy()


def convert(network: Network) -> Any:
    """The openvino.Model of a network, converted from its TensorFlow graph, or read from its ONNX
    file."""
    openvino = import_openvino()
    if network.onnx is not None:
        return onnx_model(network)
    with silence_stderr(), unreported():
        return openvino.convert_model(TensorFlowEngine(network).graph())


def _model(network: Network, core: Any) -> Any:
    """The openvino.Model of a network, from the graph cache if possible."""
    openvino = import_openvino()
    if network.onnx is not None:
        return onnx_model(network)

    # If Keras already runs on TensorFlow, the graph is converted instead of exported.
    converted = "keras" in sys.modules and import_keras().backend.backend() == "tensorflow"
    key = {
        "openvino": openvino.__version__,
        "keras": importlib.metadata.version("keras"),
        "monkeyray": _GRAPH_VERSION,
        "converted": converted,
        "backbone": network.backbone,
        "views": len(network.views),
        "backbone_weights": weights_hash(network.backbone_weights),
        "head": network.head_weights
        and [network.head_widths, network.labels, weights_hash(network.head_weights)],
    }

    def build() -> tuple[bytes, bytes]:
        with tempfile.TemporaryDirectory() as folder, silence_stderr():
            file = Path(folder) / "model.xml"
            if converted:
                openvino.save_model(convert(network), file, compress_to_fp16=False)
            else:
                _export(network, file)
            return file.read_bytes(), file.with_suffix(".bin").read_bytes()

    return core.read_model(*cached_graph(json.dumps(key), build))


def cached_graph(key: str, build: Callable[[], tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """A graph and its weights, from the cache if `key` is there, otherwise from `build`.

    The cache is in the user's cache folder (XDG_CACHE_HOME, else ~/.cache), under a checksum. If it
    is damaged or cannot be written, the graph is built.
    """
    file = _cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.graph"
    with contextlib.suppress(OSError, ValueError):
        found = _unpack(file.read_bytes())
        file.touch()
        return found
    graph, weights = build()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = file.with_suffix(f".{os.getpid()}")
        new.write_bytes(_pack(graph, weights))
        new.replace(file)
        files = sorted(file.parent.glob("*.graph"), key=lambda path: path.stat().st_mtime)
        for old in files[:-_KEPT]:
            old.unlink(missing_ok=True)
    return graph, weights


def _cache_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(cache) if cache else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        home = Path("/nonexistent")
    return home / "monkeyray" / "graphs"


def _pack(graph: bytes, weights: bytes) -> bytes:
    body = len(graph).to_bytes(8, "big") + graph + weights
    return hashlib.sha256(body).digest() + body


def _unpack(data: bytes) -> tuple[bytes, bytes]:
    body = data[32:]
    if hashlib.sha256(body).digest() != data[:32]:
        raise ValueError("damaged")
    size = int.from_bytes(body[:8], "big")
    if not 8 <= 8 + size <= len(body):
        raise ValueError("damaged")
    return body[8 : 8 + size], body[8 + size :]


def _export(network: Network, file: Path) -> None:
    """Write a network as OpenVINO files, with Keras on OpenVINO, which needs no TensorFlow."""
    keras = import_keras("openvino")
    spec = BACKBONES[network.backbone]
    backbone = _reshaped(build_backbone(network.backbone, network.backbone_weights))
    ops, views, size = keras.ops, len(network.views), network.size
    pixels = keras.Input((views, size, size, 3), dtype="uint8")
    flat = ops.cast(ops.reshape(pixels, (-1, size, size, 3)), "float32")
    scaled = ops.transpose(flat, (0, 3, 1, 2)) * spec.scale + spec.offset
    features = backbone(scaled, training=False)
    outputs = [ops.reshape(features, (-1, views, spec.width))]
    if network.head_weights is not None:
        head = build_head(spec.width, network.head_widths, network.labels, network.head_weights)
        outputs.append(head(ops.mean(outputs[0], axis=1), training=False))
    keras.Model(pixels, outputs).export(str(file), format="openvino", verbose=False)


def _reshaped(backbone: Any) -> Any:
    """The backbone with Reshape layers for a dynamic number of images: in EfficientNetV2, Keras's
    own layer gets a wrong number from the OpenVINO backend.
    """
    keras = import_keras("openvino")

    class OpenReshape(keras.layers.Reshape):  # type: ignore[misc,name-defined]
        def call(self, inputs: Any) -> Any:
            return keras.ops.reshape(inputs, (-1, *self.target_shape))

    def clone(layer: Any) -> Any:
        if isinstance(layer, keras.layers.Reshape):
            return OpenReshape(layer.target_shape, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    if not any(isinstance(layer, keras.layers.Reshape) for layer in backbone.layers):
        return backbone
    copy = keras.models.clone_model(backbone, clone_function=clone)
    copy.set_weights(backbone.get_weights())
    return copy
