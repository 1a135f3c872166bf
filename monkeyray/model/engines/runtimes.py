"""The optional packages that run networks: OpenVINO and ONNX Runtime."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any

from monkeyray.environment import environment
from monkeyray.errors import ConfigError

#: OpenVINO's precisions; by default it uses bfloat16 on CPUs that have it. Unquantised operations
#: of an int8 graph use float32.
_PRECISIONS = {"float32": "f32", "mixed": "bf16", "int8": "f32"}


def import_openvino() -> Any:
    """Import OpenVINO. Raises ConfigError if it is not installed."""
    try:
        with unreported():
            return importlib.import_module("openvino")
    except ImportError:
        raise ConfigError(
            "--engine openvino: OpenVINO is not installed here: pip install "
            "'monkeyray[openvino]' on every node, or use --engine tensorflow"
        ) from None


def import_onnxruntime() -> Any:
    """Import ONNX Runtime. Raises ConfigError if it is not installed."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise ConfigError(
            "--engine onnxruntime: ONNX Runtime is not installed here: pip install "
            "'monkeyray[onnx]' on every node"
        ) from None


def unreported() -> contextlib.AbstractContextManager[None]:
    """Keep OpenVINO and NNCF from sending telemetry, as they do everywhere but in CI."""
    return environment(CI="true")


def threads() -> int:
    """How many threads compute: OMP_NUM_THREADS, one by default."""
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def reason_of(error: Exception) -> str:
    """A runtime's own reason: the last line of its message, after source locations and before
    advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith("To facilitate")]
    return (reasons or [type(error).__name__])[-1][:200]


def compile_model(core: Any, model: Any, precision: str, *, careful: bool = False) -> Any:
    """Compile an openvino.Model for the CPU, in one stream. Raises RuntimeError if that fails.

    `careful`: without the code that OpenVINO writes for small groups of operators, in which it
    crashes on some transformers of a fixed batch.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": threads(),
        "NUM_STREAMS": 1,
        # Every process would pin its thread to the first core.
        "ENABLE_CPU_PINNING": False,
    }
    if careful:
        settings["SNIPPETS_MODE"] = "DISABLE"
    return core.compile_model(model, "CPU", settings)
