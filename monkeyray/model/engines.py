"""The choice of engine and precision, made once for all workers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Protocol

from monkeyray.arrays import Array, Floats
from monkeyray.errors import ConfigError
from monkeyray.model.network import Network, TensorFlowEngine
from monkeyray.model.openvino import OpenVinoEngine


class Engine(Protocol):
    """Runs a network on batches of pixels."""

    def __call__(self, pixels: Array) -> tuple[Floats, Floats]:
        """uint8 pixels (n, views, size, size, 3) to features (n, views, width) and logits
        (n, labels)."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine, tensorflow or openvino, and its precision, float32, mixed or int8.

    mixed computes in float16 on a GPU and bfloat16 on a CPU, and accumulates in float32. int8 needs
    OpenVINO and a network with an int8 backbone.

    >>> str(EngineChoice("tensorflow"))
    'tensorflow-float32'
    """

    name: str = "tensorflow"
    precision: str = "float32"

    def __str__(self) -> str:
        return f"{self.name}-{self.precision}"

    def build(self, network: Network) -> Engine:
        """Build the engine, in the process that runs it."""
        if self.name == "openvino":
            return OpenVinoEngine(network, self.precision)
        return TensorFlowEngine(network, self.precision)


#: The engine that is always installed.
TENSORFLOW = EngineChoice()


def choose_engine(asked: str, precision: str, gpu: bool) -> EngineChoice:
    """The engine for `--engine`; auto means OpenVINO on CPUs if it is installed.

    Raises ConfigError if it is not available.
    """
    installed = importlib.util.find_spec("openvino") is not None
    if precision == "int8":
        _check_int8(asked, gpu, installed)
    if asked == "openvino" and gpu:
        raise ConfigError(
            "--engine openvino runs on CPUs and --gpu asks for GPUs: drop one, or use --engine "
            "tensorflow"
        )
    if asked == "openvino" and not installed:
        raise ConfigError(
            "--engine openvino: OpenVINO is not installed: pip install 'monkeyray[openvino]', or "
            "use --engine tensorflow"
        )
    name = asked
    if asked == "auto":
        name = "openvino" if installed and not gpu else "tensorflow"
    return EngineChoice(name, precision)


def _check_int8(asked: str, gpu: bool, installed: bool) -> None:
    """Raise ConfigError if int8, which needs OpenVINO, is not available."""
    if asked == "tensorflow" or gpu:
        other = "--engine tensorflow" if asked == "tensorflow" else "--gpu"
        raise ConfigError(
            f"--precision int8 runs on OpenVINO, on CPUs, and {other} excludes it: drop one of "
            "them, or use --precision mixed"
        )
    if not installed:
        raise ConfigError(
            "--precision int8 runs on OpenVINO, which is not installed: pip install "
            "'monkeyray[openvino]', or use --precision mixed"
        )
