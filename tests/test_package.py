"""What `import monkeyray` offers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

import monkeyray
from monkeyray.options import StoreConfig, takes_options
from monkeyray.scoring.options import ScoreConfig
from monkeyray.training.options import TrainConfig

ROOT = Path(monkeyray.__file__).parent
PACKAGES = sorted({path.parent.name for path in ROOT.glob("*/*.py")} - {"cli"})
CONFIG = ScoreConfig(images="a", model="b", predictions="c", store=StoreConfig(quiet=True))


def test_options_or_keywords() -> None:
    asked: list[ScoreConfig] = []

    @takes_options(ScoreConfig)
    def score(config: ScoreConfig) -> None:
        asked.append(config)

    score(CONFIG)
    score(images="a", model="b", predictions="c", store=StoreConfig(quiet=True))
    paths: dict[str, Any] = {name: Path(getattr(CONFIG, name)) for name in ("images", "model")}
    score(**paths, predictions="c", store=StoreConfig(quiet=True))
    assert asked == [CONFIG, CONFIG, CONFIG]
    with pytest.raises(TypeError, match="unexpected keyword argument 'image'"):
        score(image="a")  # type: ignore[call-overload]
    for arguments, options in (
        ((TrainConfig(images="a", model="b"),), {}),
        ((CONFIG, CONFIG), {}),
        ((CONFIG,), {"model": "b"}),
        (("a",), {}),
    ):
        with pytest.raises(TypeError, match=r"monkeyray\.score takes one ScoreConfig, or its"):
            score(*arguments, **options)
    assert len(asked) == 3


def test_public_names() -> None:
    assert {name: getattr(monkeyray, name) for name in monkeyray.__all__}
    assert set(monkeyray.__all__) <= set(dir(monkeyray))
    assert monkeyray.TrainConfig is TrainConfig
    with pytest.raises(AttributeError, match="'monkeyray' has no attribute 'scores'"):
        monkeyray.scores  # type: ignore[attr-defined] # noqa: B018


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_have_faces(package: str) -> None:
    module = importlib.import_module(f"monkeyray.{package}")
    assert 2 <= len(module.__all__) <= 6
    modules = {path.stem for path in (ROOT / package).glob("*.py")}
    # A module that is imported later would replace a name.
    assert not modules & set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    assert not hasattr(module, "other")


def test_functions_that_use_them_travel() -> None:
    assert cloudpickle.loads(cloudpickle.dumps(monkeyray.score)) is monkeyray.score
