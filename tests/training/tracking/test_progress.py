"""The progress lines of a training."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monkeyray.console import Reporter
from monkeyray.storage.store import Storage
from monkeyray.training.tracking import progress as module
from monkeyray.training.tracking.progress import ProgressFile, describe, following
from monkeyray.training.tracking.tracker import Epoch, EpochLog


def epoch(number: int, **figures: float) -> Epoch:
    return 100.0 + 10 * number, {"epoch": number, **figures}


def test_a_line_on_a_training() -> None:
    line, fields = describe("fine-tuning", 20, (epoch(0), epoch(3, validation_loss=0.5)), 31)
    assert line == (
        "fine-tuning: epoch 3 of 20 at most, 10.0 s each, 3 min left at most, "
        "validation loss 0.5000"
    )
    assert fields == {
        "task": "fine-tuning", "unit": "epochs", "done": 3, "total": 20, "rate": 0.1,
        "eta_seconds": 170, "elapsed_seconds": 31, "validation_loss": 0.5,
    }  # fmt: skip
    # One epoch says nothing of how long they take.
    line, fields = describe("training", 20, (epoch(1), epoch(1)), 31)
    assert line == "training: epoch 1 of 20 at most"
    assert fields["eta_seconds"] is None
    assert (
        describe("training", 20, None, 31)[0]
        == "training: the first epoch has not finished after 31 s"
    )


def test_progress_of_a_training_is_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[int] = []
    meter = SimpleNamespace(epoch=lambda figures: told.append(figures["epoch"]))
    monkeypatch.setattr(module, "EpochMeter", lambda what, run: meter)
    for name in ("_SHORT_SECONDS", "_LINE_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)
    file = ProgressFile(Storage(), str(tmp_path / "progress.json"))
    reporter = Reporter(quiet=False)
    monkeypatch.setattr(
        reporter, "say", lambda message, event, **fields: lines.append({"event": event, **fields})
    )
    assert file.read() is None
    lines: list[dict[str, Any]] = []

    def wait_for(done: int) -> None:
        deadline = time.monotonic() + 60
        while not lines or lines[-1]["done"] != done:
            assert time.monotonic() < deadline, lines
            time.sleep(0.02)

    with following(file, "training", "/model", 9, reporter, metrics=True):
        wait_for(0)
        log = EpochLog("head", [file])
        for number in range(1, 6):
            log.add({"epoch": number, "validation_loss": 1 / number})
            log.flush()
            wait_for(number)
        assert lines[-1]["validation_loss"] == 0.2
        assert lines[-1]["rate"] > 0
        # Workers that were restarted repeat epochs, and the time between was none's.
        EpochLog("head", [file], [{"epoch": number} for number in (1, 2, 3)]).flush()
        wait_for(3)
        assert lines[-1]["rate"] is None
    assert {line["event"] for line in lines} == {"progress"}
    assert {1, 5} <= set(told)
