from __future__ import annotations

import importlib.util

import pytest

from monkeyray.errors import ConfigError
from monkeyray.model.engines import EngineChoice, choose_engine


def test_auto_takes_openvino_on_cpus_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine("auto", "float32", gpu=False) == EngineChoice("openvino", "float32")
    assert choose_engine("auto", "mixed", gpu=True) == EngineChoice("tensorflow", "mixed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_engine("auto", "float32", gpu=False) == EngineChoice("tensorflow", "float32")


def test_an_engine_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--gpu asks for GPUs: drop one"):
        choose_engine("openvino", "float32", gpu=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'monkeyray\[openvino\]'"):
        choose_engine("openvino", "float32", gpu=False)


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
