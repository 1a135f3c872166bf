"""The options of every command, validated when built. The command line is generated from these."""

from __future__ import annotations

from typing import Any

from monkeyray.config.calls import CallConfig
from monkeyray.config.demos import DemoConfig
from monkeyray.config.exports import BurstsConfig, ExportConfig, parse_gap
from monkeyray.config.reviews import ReviewConfig
from monkeyray.config.scoring import EvaluateConfig, RescoreConfig, ScoreConfig, parse_top_k
from monkeyray.config.shared import StoreConfig
from monkeyray.config.training import TrainConfig, TuneConfig, parse_head

#: Each command's options. What it does is a function of that name, in a module of that name.
COMMANDS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "tune": TuneConfig,
    "score": ScoreConfig,
    "rescore": RescoreConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "bursts": BurstsConfig,
    "review": ReviewConfig,
    "demo": DemoConfig,
}

__all__ = [
    "COMMANDS",
    "BurstsConfig",
    "CallConfig",
    "DemoConfig",
    "EvaluateConfig",
    "ExportConfig",
    "RescoreConfig",
    "ReviewConfig",
    "ScoreConfig",
    "StoreConfig",
    "TrainConfig",
    "TuneConfig",
    "parse_gap",
    "parse_head",
    "parse_top_k",
]
