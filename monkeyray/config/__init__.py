"""The options of every command, validated when built. The command line is generated from these."""

from monkeyray.config.demos import DemoConfig
from monkeyray.config.exports import BurstsConfig, ExportConfig, parse_gap
from monkeyray.config.reviews import ReviewConfig
from monkeyray.config.scoring import EvaluateConfig, RescoreConfig, ScoreConfig, parse_top_k
from monkeyray.config.shared import StoreConfig
from monkeyray.config.training import TrainConfig, TuneConfig, parse_head

__all__ = [
    "BurstsConfig",
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
