from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

import monkeyray
import monkeyray.score
import monkeyray.train
from monkeyray.config import ScoreConfig, StoreConfig, TrainConfig

CONFIG = ScoreConfig(images="a", model="b", predictions="c", store=StoreConfig(quiet=True))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the job would have been run with."""
    asked: list[Any] = []
    monkeypatch.setattr(monkeyray.score, "_job", asked.append)
    return asked


def test_options_or_keywords(asked: list[Any]) -> None:
    monkeyray.score(CONFIG)
    monkeyray.score(images="a", model="b", predictions="c", store=StoreConfig(quiet=True))
    paths: dict[str, Any] = {name: Path(getattr(CONFIG, name)) for name in ("images", "model")}
    monkeyray.score(**paths, predictions="c", store=StoreConfig(quiet=True))
    assert asked == [CONFIG, CONFIG, CONFIG]
    with pytest.raises(TypeError, match="unexpected keyword argument 'image'"):
        monkeyray.score(image="a")  # type: ignore[call-overload]
    for arguments, options in (
        ((TrainConfig(images="a", model="b"),), {}),
        ((CONFIG, CONFIG), {}),
        ((CONFIG,), {"model": "b"}),
        (("a",), {}),
    ):
        with pytest.raises(TypeError, match=r"monkeyray\.score takes one ScoreConfig, or its"):
            monkeyray.score(*arguments, **options)
    assert len(asked) == 3


@pytest.mark.parametrize("name", ["score", "train"])
def test_any_order_of_imports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[f"monkeyray.{name}"]
    assert getattr(monkeyray, name) is module
    # As it is before anybody has imported the module.
    monkeypatch.delattr(monkeyray, name)
    assert getattr(monkeyray, name) is module
    assert callable(module)
    assert importlib.import_module(f"monkeyray.{name}") is module
    # What is in the module is found there as ever, and can be replaced in it.
    assert vars(module)[name].__module__ == f"monkeyray.{name}"
    monkeypatch.setattr(f"monkeyray.{name}.check_relative", None)
    assert module.check_relative is None


def test_what_the_package_offers() -> None:
    assert {name: getattr(monkeyray, name) for name in monkeyray.__all__}
    assert set(monkeyray.__all__) <= set(dir(monkeyray))
    assert monkeyray.TrainConfig is TrainConfig
    with pytest.raises(AttributeError, match="'monkeyray' has no attribute 'scores'"):
        monkeyray.scores  # type: ignore[attr-defined] # noqa: B018


def test_functions_that_use_them_travel() -> None:
    assert cloudpickle.loads(cloudpickle.dumps(monkeyray.score)) is monkeyray.score
