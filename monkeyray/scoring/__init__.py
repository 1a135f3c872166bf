"""Predictions: scoring, rescoring, evaluation, and the model in a notebook."""

from typing import TYPE_CHECKING

from monkeyray.lazy import lazy_names

__all__ = [
    "EvaluateConfig",
    "Model",
    "RescoreConfig",
    "ScoreConfig",
    "Summary",
    "load_model",
]

if TYPE_CHECKING:
    from monkeyray.scoring.notebook import Model, load_model
    from monkeyray.scoring.options import EvaluateConfig, RescoreConfig, ScoreConfig
    from monkeyray.scoring.summary import Summary
else:
    # Hidden from type checkers, which would accept any name.
    __getattr__ = lazy_names(
        __name__,
        {
            "options": "EvaluateConfig RescoreConfig ScoreConfig",
            "notebook": "Model load_model",
            "summary": "Summary",
        },
    )
