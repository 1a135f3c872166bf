"""The commands, with their options and their jobs."""

from __future__ import annotations

from typing import Any

from monkeyray.cli.options import DemoConfig
from monkeyray.exports.options import EventsConfig, ExportConfig
from monkeyray.pages.options import ReviewConfig
from monkeyray.scoring.options import EvaluateConfig, RescoreConfig, ScoreConfig
from monkeyray.training.options import TrainConfig, TuneConfig

#: Each command's configuration class.
COMMANDS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "tune": TuneConfig,
    "score": ScoreConfig,
    "rescore": RescoreConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "events": EventsConfig,
    "review": ReviewConfig,
    "demo": DemoConfig,
}

#: The module with each command's job, a function with the command's name. Imported when it runs.
MODULES = {
    "train": "monkeyray.training.train",
    "tune": "monkeyray.training.tune",
    "score": "monkeyray.scoring.score",
    "rescore": "monkeyray.scoring.rescore",
    "evaluate": "monkeyray.scoring.evaluation.evaluate",
    "export": "monkeyray.exports.export",
    "events": "monkeyray.exports.events.tables",
    "review": "monkeyray.pages.review",
    "demo": "monkeyray.cli.demo",
}
