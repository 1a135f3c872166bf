from __future__ import annotations

import importlib.util

import pytest

from monkeyray.engines import EngineChoice, choose_engine
from monkeyray.errors import ConfigError


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
