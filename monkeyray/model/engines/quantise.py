"""Post-training quantisation of a backbone to int8 with NNCF, calibrated on training images."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.console import silence_stderr
from monkeyray.errors import ConfigError
from monkeyray.model.backbones import Weights, import_keras
from monkeyray.model.engines.int8 import to_arrays
from monkeyray.model.engines.openvino import OpenVinoEngine, convert
from monkeyray.model.engines.runtimes import import_openvino, unreported
from monkeyray.model.head import head_logits
from monkeyray.model.network import Network
from monkeyray.statistics.metrics import softmax, wilson

#: Calibration images, NNCF's default.
IMAGES = 300

#: The speed comparison: images per batch, as in scoring, and rounds of each precision.
_BATCH, _ROUNDS = 32, 7


@dataclass(frozen=True)
class Quantised:
    """`arrays`: the int8 backbone, for Network.int8. `speed`: images/s by precision in one thread
    of `cpu`. `seconds`: how long the quantisation took."""

    arrays: Weights
    speed: dict[str, float]
    cpu: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The figures, with the `bytes` of the arrays."""
        size = sum(array.nbytes for array in self.arrays.values())
        return {"speed": self.speed, "cpu": self.cpu, "bytes": size, "seconds": self.seconds}


def check_installed() -> None:
    """Raise ConfigError if NNCF or OpenVINO is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("openvino", "nncf")):
        raise ConfigError(
            "--int8 needs NNCF and OpenVINO, which are not installed here: pip install "
            "'monkeyray[int8]' (scoring needs 'monkeyray[openvino]' alone), or drop --int8"
        )


def quantise(network: Network, source: Callable[[], Array]) -> Quantised:
    """Quantise the backbone of a network, and measure its speed.

    `source`: reads some training images, uint8 (n, views, size, size, 3). Call this in a fresh
    process, since NNCF and TensorFlow change global state. Raises ConfigError if NNCF is not
    installed, BundleError if OpenVINO cannot run the result.
    """
    check_installed()
    os.environ["OMP_NUM_THREADS"] = "1"  # the reported speed is of one thread
    if network.onnx is None:
        import_keras()
    pixels, start = source(), time.monotonic()
    arrays = quantise_backbone(network, pixels)
    seconds = time.monotonic() - start
    cpu = import_openvino().Core().get_property("CPU", "FULL_DEVICE_NAME").strip()
    return Quantised(arrays, _speed(replace(network, int8=arrays), pixels), cpu, seconds)


def quantise_backbone(network: Network, pixels: Array) -> Weights:
    """The backbone of a network in int8, calibrated on uint8 pixels (n, views, size, size, 3)."""
    openvino = import_openvino()
    # NNCF takes statistics image by image.
    each = pixels.reshape(-1, 1, 1, *pixels.shape[2:])
    whole = convert(replace(network, head_weights=None))
    backbone = openvino.Model([whole.output(0)], whole.get_parameters(), "backbone")
    with _silent(), tempfile.TemporaryDirectory() as folder:
        import nncf

        nncf.set_log_level(40)
        quantised = nncf.quantize(
            backbone,
            nncf.Dataset(each),
            # Signed only where values are: half as coarse after a relu.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(each),
            # Slower, but the features are much closer to float32.
            fast_bias_correction=False,
        )
        file = Path(folder) / "backbone.xml"
        openvino.save_model(quantised, file, compress_to_fp16=False)
        return to_arrays(file.read_bytes(), file.with_suffix(".bin").read_bytes())


@contextlib.contextmanager
def _silent() -> Any:
    """Silence NNCF, which writes to the terminal at any log level."""
    with silence_stderr(), unreported(), contextlib.redirect_stdout(io.StringIO()):
        yield


def _speed(network: Network, pixels: Array) -> dict[str, float]:
    """Images per second by precision: medians over rounds in which the precisions alternate."""
    batch = np.resize(pixels, (max(1, _BATCH // pixels.shape[1]), *pixels.shape[1:]))
    engines = {name: OpenVinoEngine(network, name) for name in ("float32", "int8")}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(_ROUNDS):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine(batch)
            rates[name].append(len(batch) / (time.perf_counter() - start))
    return {name: float(np.median(each)) for name, each in rates.items()}


def compare(
    head: Weights, temperature: float, features: Array, quantised: Array, truth: Array
) -> dict[str, Any]:
    """The effect of int8 on the labels of the test images.

    `features`, `quantised`: (n, views, width), computed in float32 and in int8; `truth`: label
    indices (n,). Returns the number of `images`; the `accuracy` in float32 and in int8; the
    `agreement`, the share of images with the same label in both, and its 95% interval; and
    `score_change`, the mean absolute change of the highest score. All but the first are None
    without images.
    """
    names = ("float32", "int8")
    scores = {
        name: softmax(head_logits(head, vectors.mean(axis=1)) / temperature)
        for name, vectors in zip(names, (features, quantised), strict=True)
    }
    labels = {name: each.argmax(axis=1) for name, each in scores.items()}
    best = [each.max(axis=1) for each in scores.values()]
    agreement = _mean(labels["float32"] == labels["int8"])
    return {
        "images": len(truth),
        "accuracy": {name: _mean(found == truth) for name, found in labels.items()},
        "agreement": agreement,
        "agreement_interval": wilson(agreement, len(truth)),
        "score_change": _mean(np.abs(best[0] - best[1])),
    }


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None
