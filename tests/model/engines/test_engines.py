from __future__ import annotations

import importlib.util

import pytest

from monkeyray.errors import ConfigError
from monkeyray.model.engines.choice import EngineChoice, choose_engine


def test_auto_takes_openvino_on_cpus_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine("auto", "float32", gpu=False) == EngineChoice("openvino", "float32")
    assert choose_engine("auto", "mixed", gpu=True) == EngineChoice("tensorflow", "mixed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_engine("auto", "float32", gpu=False) == EngineChoice("tensorflow", "float32")


def test_an_unavailable_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--gpu asks for GPUs: drop one"):
        choose_engine("openvino", "float32", gpu=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'monkeyray\[openvino\]'"):
        choose_engine("openvino", "float32", gpu=False)


def test_a_backbone_from_an_onnx_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(asked: str, precision: str = "float32", gpu: bool = False) -> EngineChoice:
        return choose_engine(asked, precision, gpu, onnx=True)

    assert choose("auto") == choose("openvino") == EngineChoice("openvino")
    assert choose("auto", "mixed") == EngineChoice("openvino", "mixed")
    assert choose("auto", gpu=True) == EngineChoice("onnxruntime", gpu=True)
    assert choose("onnxruntime") == EngineChoice("onnxruntime")
    assert str(choose("auto", gpu=True)) == "onnxruntime-float32"
    for asked, precision, gpu, words in (
        ("tensorflow", "float32", False, "--engine tensorflow cannot run"),
        ("openvino", "float32", True, "--gpu asks for GPUs: drop one$"),
        ("onnxruntime", "mixed", False, "--precision mixed: ONNX Runtime computes"),
        ("onnxruntime", "int8", False, "--engine onnxruntime excludes it"),
    ):
        with pytest.raises(ConfigError, match=words):
            choose(asked, precision, gpu)
    with pytest.raises(ConfigError, match="--engine onnxruntime runs backbones that came as"):
        choose_engine("onnxruntime", "float32", gpu=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for gpu, extra in ((False, "openvino"), (True, "onnx")):
        with pytest.raises(ConfigError, match=rf"pip install 'monkeyray\[{extra}\]'"):
            choose("auto", gpu=gpu)


def test_int8_is_openvinos(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(choose_engine("auto", "int8", gpu=False)) == "openvino-int8"
    for asked, gpu, words in (
        ("tensorflow", False, "--engine tensorflow"),
        ("auto", True, "--gpu"),
    ):
        with pytest.raises(ConfigError, match=f"{words} excludes it"):
            choose_engine(asked, "int8", gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for asked in ("auto", "openvino"):
        with pytest.raises(ConfigError, match=r"--precision int8 .* 'monkeyray\[openvino\]'"):
            choose_engine(asked, "int8", gpu=False)
