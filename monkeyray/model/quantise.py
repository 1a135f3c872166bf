"""A backbone to int8 by NNCF: post-training quantisation, calibrated on images of the training."""

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
from monkeyray.model.engine import Network
from monkeyray.model.head import head_logits
from monkeyray.model.int8 import to_arrays
from monkeyray.model.openvino import OpenVinoEngine, convert, import_openvino, unreported
from monkeyray.statistics.metrics import softmax, wilson

#: Images that ranges and errors are measured on, as NNCF has it by default.
IMAGES = 300

#: Of the comparison of speed: images in a batch, as scoring has it, and how often each precision
#: has its turn.
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
        """The figures, and the `bytes` of the arrays."""
        size = sum(array.nbytes for array in self.arrays.values())
        return {"speed": self.speed, "cpu": self.cpu, "bytes": size, "seconds": self.seconds}


def check_installed() -> None:
    """Raise ConfigError where there is nothing to quantise with."""
    if any(importlib.util.find_spec(name) is None for name in ("openvino", "nncf")):
        raise ConfigError(
            "--int8 is done by NNCF and OpenVINO, which are not installed here: pip install "
            "'monkeyray[int8]' (scoring needs 'monkeyray[openvino]' alone), or drop --int8"
        )


def quantise(network: Network, source: Callable[[], Array]) -> Quantised:
    """The backbone of a network in int8, and how fast it is.

    `source`: gives some training images, uint8 (n, views, size, size, 3). To be called in a process
    of its own, since NNCF and TensorFlow change what is around them. Raises ConfigError where NNCF
    is not installed, and BundleError where OpenVINO cannot run what NNCF makes.
    """
    check_installed()
    os.environ["OMP_NUM_THREADS"] = "1"  # what the speed is said to be of
    import_keras()
    pixels, start = source(), time.monotonic()
    arrays = quantise_backbone(network, pixels)
    seconds = time.monotonic() - start
    cpu = import_openvino().Core().get_property("CPU", "FULL_DEVICE_NAME").strip()
    return Quantised(arrays, _speed(replace(network, int8=arrays), pixels), cpu, seconds)


def quantise_backbone(network: Network, pixels: Array) -> Weights:
    """The backbone of a network in int8, calibrated on uint8 pixels (n, views, size, size, 3)."""
    openvino = import_openvino()
    # Views one by one, as images are: statistics are taken image by image.
    each = pixels.reshape(-1, 1, 1, *pixels.shape[2:])
    whole = convert(replace(network, head_weights=None))
    backbone = openvino.Model([whole.output(0)], whole.get_parameters(), "backbone")
    with _silent(), tempfile.TemporaryDirectory() as folder:
        import nncf

        nncf.set_log_level(40)
        quantised = nncf.quantize(
            backbone,
            nncf.Dataset(each),
            # Signed where values are signed, and not where a relu was: half as coarse.
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(each),
            # Layer after layer, each with the errors of those before: MobileNet's features come to
            # a cosine of 0.998 with those in float32, where the fast way leaves 0.987.
            fast_bias_correction=False,
        )
        file = Path(folder) / "backbone.xml"
        openvino.save_model(quantised, file, compress_to_fp16=False)
        return to_arrays(file.read_bytes(), file.with_suffix(".bin").read_bytes())


@contextlib.contextmanager
def _silent() -> Any:
    """NNCF writes bars and lines to the terminal, whatever its level."""
    with silence_stderr(), unreported(), contextlib.redirect_stdout(io.StringIO()):
        yield


def _speed(network: Network, pixels: Array) -> dict[str, float]:
    """Images a second of the network by precision: medians of rounds in which they take turns."""
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
    """What int8 does to the labels of images that are no others than those of the test split.

    `features`, `quantised`: float32 (n, views, width) in float32 and in int8; `truth`: label
    indices (n,). Returns how many `images` there are; the `accuracy` in float32 and in int8; the
    `agreement`, the share of images that have the same label in both, with its 95% interval; and
    `score_change`, by how much the score of the likeliest label changes on average. All but the
    first are None where there is no image.
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
