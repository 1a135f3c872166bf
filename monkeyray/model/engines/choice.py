"""The choice of engine and precision, made once for all workers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from monkeyray.arrays import Array, Floats
from monkeyray.errors import ConfigError
from monkeyray.model.engines.onnx import ONNXRUNTIME, OnnxEngine, onnx_refusal, takes_batches
from monkeyray.model.engines.openvino import OpenVinoEngine
from monkeyray.model.network import Network, TensorFlowEngine


class Engine(Protocol):
    """Runs a network on batches of pixels."""

    def __call__(self, pixels: Array) -> tuple[Floats, Floats]:
        """uint8 pixels (n, views, size, size, 3) to features (n, views, width) and logits
        (n, labels)."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine, tensorflow, openvino or onnxruntime, and its precision, float32, mixed or int8.

    mixed computes in float16 on a GPU and bfloat16 on a CPU, and accumulates in float32. int8 needs
    OpenVINO and a network with an int8 backbone. `gpu`: whether ONNX Runtime uses a GPU; TensorFlow
    uses what it sees.

    >>> str(EngineChoice("tensorflow"))
    'tensorflow-float32'
    """

    name: str = "tensorflow"
    precision: str = "float32"
    gpu: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        return f"{self.name}-{self.precision}"

    def build(self, network: Network) -> Engine:
        """Build the engine, in the process that runs it."""
        if network.onnx is not None and self.precision != "int8":
            return self._build_onnx(network)
        if self.name == "openvino":
            return OpenVinoEngine(network, self.precision)
        return TensorFlowEngine(network, self.precision)

    def _build_onnx(self, network: Network) -> Engine:
        engine: Engine
        try:
            if self.name == "openvino" and takes_batches(network):
                engine = OpenVinoEngine(network, self.precision)
            else:
                engine = OnnxEngine(network, self.name, self.precision, self.gpu)
            engine(np.zeros((1, len(network.views), network.size, network.size, 3), np.uint8))
        except (ValueError, RuntimeError) as error:
            raise onnx_refusal(error) from error
        return engine


#: The engine that is always installed.
TENSORFLOW = EngineChoice()


def choose_engine(asked: str, precision: str, gpu: bool, onnx: bool = False) -> EngineChoice:
    """The engine for `--engine`; auto means OpenVINO on CPUs if it is installed.

    `onnx`: for a backbone that came as an ONNX file, which runs on OpenVINO or, on GPUs, on ONNX
    Runtime. Raises ConfigError if the engine is not available.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if precision == "int8":
        _check_int8(asked, gpu, installed)
    if asked == "openvino" and gpu:
        raise ConfigError(
            "--engine openvino runs on CPUs and --gpu asks for GPUs: drop one"
            + ("" if onnx else ", or use --engine tensorflow")
        )
    if asked == "openvino" and not installed:
        raise ConfigError(
            "--engine openvino: OpenVINO is not installed: pip install 'monkeyray[openvino]'"
            + ("" if onnx else ", or use --engine tensorflow")
        )
    if onnx:
        return _choose_for_onnx(asked, precision, gpu, installed)
    if asked == ONNXRUNTIME:
        raise ConfigError(
            "--engine onnxruntime runs backbones that came as an ONNX file, and this one did not: "
            "drop it"
        )
    name = asked
    if asked == "auto":
        name = "openvino" if installed and not gpu else "tensorflow"
    return EngineChoice(name, precision)


def _choose_for_onnx(asked: str, precision: str, gpu: bool, installed: bool) -> EngineChoice:
    """`installed`: whether OpenVINO is."""
    if asked == "tensorflow":
        raise ConfigError(
            "--engine tensorflow cannot run a backbone that came as an ONNX file: drop it"
        )
    if asked == "openvino" or (asked == "auto" and installed and not gpu):
        return EngineChoice("openvino", precision)
    if importlib.util.find_spec(ONNXRUNTIME) is None:
        extra = "onnx" if gpu or asked == ONNXRUNTIME else "openvino"
        raise ConfigError(
            "the backbone came as an ONNX file, and what runs it here is not installed: pip "
            f"install 'monkeyray[{extra}]'"
        )
    if precision != "float32":
        raise ConfigError(
            f"--precision {precision}: ONNX Runtime computes an ONNX file as it is: drop it, or "
            "use --engine openvino on CPUs"
        )
    return EngineChoice(ONNXRUNTIME, precision, gpu=gpu)


def _check_int8(asked: str, gpu: bool, installed: bool) -> None:
    """Raise ConfigError if int8, which needs OpenVINO, is not available."""
    if asked in ("tensorflow", ONNXRUNTIME) or gpu:
        other = "--gpu" if gpu and asked == "auto" else f"--engine {asked}"
        raise ConfigError(
            f"--precision int8 runs on OpenVINO, on CPUs, and {other} excludes it: drop one of "
            "them, or use --precision mixed"
        )
    if not installed:
        raise ConfigError(
            "--precision int8 runs on OpenVINO, which is not installed: pip install "
            "'monkeyray[openvino]', or use --precision mixed"
        )
