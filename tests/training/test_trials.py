"""What Ray Tune says of a trial, in our words. The trials themselves run in test_tune.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from monkeyray.training.trials import _figures

SEEN: dict[str, Any] = {
    "epoch": 15,
    "best_epoch": 12,
    "validation_loss": 0.25,
    "validation_accuracy": 0.9,
    "time_total_s": 2.5,
    "error": "",
}


@pytest.mark.parametrize(("ended", "word"), [("", "stopped"), ("finished", "finished")])
def test_what_a_trial_came_to(ended: str, word: str) -> None:
    assert _figures(SimpleNamespace(error=None, metrics=SEEN | {"ended": ended})) == {
        "ended": word,
        "epochs": 15,
        "best_epoch": 12,
        "validation_loss": 0.25,
        "validation_accuracy": 0.9,
        "seconds": 2.5,
        "error": None,
    }


@pytest.mark.parametrize(
    ("error", "metrics", "ended", "words"),
    [
        (RuntimeError("some\nout of memory\n"), None, "failed", "RuntimeError: out of memory"),
        # One whose process died after some epochs has found nothing that counts.
        (OSError("disk"), SEEN | {"ended": ""}, "failed", "OSError: disk"),
        (None, SEEN | {"ended": "diverged", "error": "it diverged"}, "diverged", "it diverged"),
    ],
)
def test_a_trial_without_a_result(
    error: Exception | None, metrics: dict[str, Any] | None, ended: str, words: str
) -> None:
    figures = _figures(SimpleNamespace(error=error, metrics=metrics))
    assert (figures["ended"], figures["error"]) == (ended, words)
    assert figures["epochs"] == 0
    assert figures["validation_loss"] is figures["validation_accuracy"] is None
