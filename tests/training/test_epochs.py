"""What is told of a training while it lasts."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from monkeyray.console import Reporter
from monkeyray.training import epochs
from monkeyray.training.epochs import Board, BoardSink, Epoch, Follower, describe


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
        describe("training", 20, None, 31)[0] == "training: the first epoch is not done after 31 s"
    )


def test_workers_that_begin_again_repeat_epochs() -> None:
    board = Board()
    assert board.seen() is None
    board.add(epoch(1), epoch(4))
    board.add(epoch(5), epoch(6))
    assert board.seen() == (epoch(1), epoch(6))
    late: Epoch = (999.0, {"epoch": 5})
    board.add(late, late)
    assert board.seen() == (late, late)


def test_it_is_followed_from_another_process(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray

    for name in ("_SHORT_SECONDS", "_LINE_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(epochs, name, 0.05)
    follower = Follower.create("training", "/model", 9, Reporter(False, "json"))

    write = ray.remote(num_cpus=0)(BoardSink.write)
    five = [epoch(number, validation_loss=1 / number) for number in range(1, 6)]
    lines: list[dict[str, Any]] = []
    with follower.following():
        deadline = time.monotonic() + 60
        while not lines or lines[-1]["done"] != 5:
            assert time.monotonic() < deadline, lines
            # Again and again, since the board may not hang yet.
            ray.get(write.remote(follower.sink, five))
            time.sleep(0.1)
            lines += map(json.loads, capfd.readouterr().err.splitlines())
    assert {line["event"] for line in lines} == {"progress"}
    assert lines[-1]["validation_loss"] == 0.2
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor(follower.sink.name)
