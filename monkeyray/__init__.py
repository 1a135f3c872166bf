"""MonkeyRay: train a species classifier and score millions of images on a Ray cluster.

From Python, what the commands do and a model for single images::

    import monkeyray

    monkeyray.train(images="photographs", model="models/first")
    monkeyray.score(images="s3://bucket/season-3", model="models/first", predictions="out")
    table = monkeyray.load_model("models/first").predict(["one.jpg", "two.jpg"])

`train` and `score` take a TrainConfig or ScoreConfig, or its fields by keyword: the options of the
command line with underscores.

>>> import monkeyray
>>> monkeyray.TrainConfig(images="photographs", model="models/first").views
1
>>> monkeyray.score(images="photographs", model="out/first", predictions="out")
Traceback (most recent call last):
monkeyray.errors.ConfigError: --model out/first is in --predictions out, where files are written \
and deleted: give --predictions a place of its own
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("monkeyray")
except PackageNotFoundError:  # came as a plain folder with `ray job submit --working-dir`
    __version__ = "0.1.0"

__all__ = [
    "Model",
    "MonkeyRayError",
    "ScoreConfig",
    "StoreConfig",
    "TrainConfig",
    "load_model",
    "score",
    "train",
]

#: Where what is imported on first use lies. `score` and `train` are modules, which can be called.
_PLACES = {
    "Model": "model",
    "MonkeyRayError": "errors",
    "ScoreConfig": "config",
    "StoreConfig": "config",
    "TrainConfig": "config",
    "load_model": "model",
}

if TYPE_CHECKING:
    from monkeyray.config import ScoreConfig, StoreConfig, TrainConfig
    from monkeyray.errors import MonkeyRayError
    from monkeyray.model import Model, load_model
    from monkeyray.score import module as score
    from monkeyray.train import module as train
else:
    # Hidden from type checkers, which would take any name for one that is there.
    def __getattr__(name: str) -> Any:
        # Late, so that `import monkeyray` and --help load nothing heavy.
        if name in ("score", "train"):
            return importlib.import_module(f"monkeyray.{name}")
        if name in _PLACES:
            return getattr(importlib.import_module(f"monkeyray.{_PLACES[name]}"), name)
        raise AttributeError(f"module 'monkeyray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
