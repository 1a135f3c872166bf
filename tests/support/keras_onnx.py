"""A Keras backbone as the ONNX file that Keras itself exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monkeyray.console import silence_stderr
from monkeyray.model.backbones import BACKBONES, Weights, build_backbone, import_keras


def mobilenet_onnx(weights: Weights, file: Path, name: str = "mobilenet") -> None:
    """Write MobileNet, or another backbone by `name`, with an input (n, size, size, 3)."""
    size = BACKBONES[name].size
    backbone = build_backbone(name, weights)
    backbone(np.zeros((1, size, size, 3), np.float32), training=False)
    with silence_stderr():
        backbone.export(str(file), format="onnx", verbose=False)
    assert import_keras().backend.backend() == "tensorflow"
