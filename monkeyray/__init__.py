"""MonkeyRay: train a species classifier and score millions of images on a Ray cluster.

In Python, the commands as functions, and a model for single images::

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
monkeyray.errors.ConfigError: --model out/first is in --predictions out, which may hold only \
the files of a run: choose another place for one of them
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

try:
    __version__ = version("monkeyray")
except PackageNotFoundError:  # not installed: sent as a folder by `ray job submit --working-dir`
    __version__ = "0.1.0"

__all__ = [
    "Model",
    "MonkeyRayError",
    "ScoreConfig",
    "Scorer",
    "StoreConfig",
    "TrainConfig",
    "load_model",
    "score",
    "train",
]

if TYPE_CHECKING:
    from monkeyray.errors import MonkeyRayError
    from monkeyray.options import StoreConfig
    from monkeyray.scoring.notebook import Model, load_model
    from monkeyray.scoring.options import ScoreConfig
    from monkeyray.scoring.score import score
    from monkeyray.scoring.stage import Scorer
    from monkeyray.training.options import TrainConfig
    from monkeyray.training.train import train
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__,
        {
            "scoring.notebook": "Model load_model",
            "errors": "MonkeyRayError",
            "scoring.options": "ScoreConfig",
            "options": "StoreConfig",
            "training.options": "TrainConfig",
            "scoring.score": "score",
            "scoring.stage": "Scorer",
            "training.train": "train",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
