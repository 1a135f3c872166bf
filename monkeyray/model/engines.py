"""Which engine runs a network, and how precisely: chosen once, for all workers alike."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Protocol

from monkeyray.arrays import Array, Floats
from monkeyray.errors import ConfigError
from monkeyray.model.engine import Network, TensorFlowEngine
from monkeyray.model.openvino import OpenVinoEngine


class Engine(Protocol):
    """Runs a network on batches of pixels."""

    def __call__(self, pixels: Array) -> tuple[Floats, Floats]:
        """uint8 pixels (n, views, size, size, 3) to features (n, views, width) and logits
        (n, labels)."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine by its name, tensorflow or openvino, and its precision, float32, mixed or int8.

    mixed computes in float16 on a GPU and in bfloat16 on a CPU, and adds up in float32. int8 is
    OpenVINO's, and needs a network that has its backbone in int8.

    >>> str(EngineChoice("tensorflow"))
    'tensorflow-float32'
    """

    name: str = "tensorflow"
    precision: str = "float32"

    def __str__(self) -> str:
        return f"{self.name}-{self.precision}"

    def build(self, network: Network) -> Engine:
        """The engine itself, in the process that runs it."""
        if self.name == "openvino":
            return OpenVinoEngine(network, self.precision)
        return TensorFlowEngine(network, self.precision)


#: The engine that is always there.
TENSORFLOW = EngineChoice()


def choose_engine(asked: str, precision: str, gpu: bool) -> EngineChoice:
    """The engine that `--engine` asks for; auto takes OpenVINO on CPUs where it is installed.

    Raises ConfigError for one that cannot be had.
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
    """Raise ConfigError where int8, which OpenVINO alone computes, cannot be had."""
    if asked == "tensorflow" or gpu:
        other = "--engine tensorflow" if asked == "tensorflow" else "--gpu"
        raise ConfigError(
            f"--precision int8 is computed by OpenVINO, on CPUs, and {other} asks for something "
            "else: drop one of them, or use --precision mixed"
        )
    if not installed:
        raise ConfigError(
            "--precision int8 is computed by OpenVINO, which is not installed: pip install "
            "'monkeyray[openvino]', or use --precision mixed"
        )
