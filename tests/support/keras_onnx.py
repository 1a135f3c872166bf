"""A Keras backbone as the ONNX file that Keras itself exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monkeyray.console import silence_stderr
from monkeyray.model.backbones import BACKBONES, Weights, build_backbone


def export_onnx(weights: Weights, file: Path, name: str = "mobilenet") -> None:
    """Write a backbone, from preprocessed images (n, size, size, 3) to features."""
    size = BACKBONES[name].size
    backbone = build_backbone(name, weights)
    backbone(np.zeros((1, size, size, 3), np.float32), training=False)
    with silence_stderr():
        backbone.export(str(file), format="onnx", verbose=False)
