"""Training on this machine: checkpoints, processes that die, and a driver that dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monkeyray.console import Reporter
from monkeyray.errors import ClusterError, ConfigError
from monkeyray.model.backbones import Weights
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.fitting import distributed
from monkeyray.training.fitting.distributed import (
    TRAINING,
    MachineTrainer,
    Outcome,
    Task,
    run_training,
)
from monkeyray.training.fitting.worker import State, Worker
from monkeyray.training.options import parse_head
from monkeyray.training.tracking.tracker import Epoch, Stage, Tracker


@dataclass(frozen=True)
class Settings:
    epochs: int = 6


@dataclass(frozen=True)
class Counting:
    """A training that counts its epochs, and does something after the third. It leaves the ids of
    its processes in `folder`."""

    folder: Path
    then: str = ""
    config: Settings = Settings()

    def __call__(self, worker: Worker) -> tuple[State, Weights]:
        before = len(list(self.folder.iterdir()))
        (self.folder / f"{os.getpid()}").touch()
        state = worker.resume or State(0, [np.zeros(2)], [], [], 0, float("inf"))
        if worker.resume is not None:
            state = replace(state, resumed_from=[*state.resumed_from, state.epoch])
        while state.epoch < self.config.epochs:
            figures = {"epoch": state.epoch + 1, "validation_loss": 1 / (state.epoch + 1)}
            worker.on_epoch(figures)
            state = replace(
                state,
                epoch=state.epoch + 1,
                variables=[state.variables[0] + 1],
                history=[*state.history, figures],
            )
            worker.checkpoint(state)
            if state.epoch == 3 and before == 0:
                self._act()
        if self.then == "die always":
            os._exit(9)
        return state, {"0000": state.variables[0]}

    def _act(self) -> None:
        if self.then == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.then == "diverge":
            raise ConfigError("diverged in epoch 3")
        elif self.then == "orphan":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)


@dataclass(frozen=True)
class Lines(Tracker):
    """Epochs in a file."""

    path: Path

    def last(self, stage: str) -> int:
        return int(self.path.read_text()[-1]) if self.path.exists() else -1

    def write(self, stage: str, epochs: Sequence[Epoch]) -> None:
        with open(self.path, "a") as file:
            file.write("".join(str(figures["epoch"]) for _, figures in epochs))


@pytest.fixture
def trainer() -> Iterator[MachineTrainer]:
    with contextlib.closing(MachineTrainer(debug=False)) as found:
        yield found


def run(trainer: MachineTrainer, folder: Path, training: Counting, *trackers: Any) -> Outcome:
    task = Task(training, Stage("head", trackers))
    place = Location.of(str(folder / "model"))
    return run_training(task, {}, place, Storage(), trainer, Reporter(quiet=True))


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def assert_whole(outcome: Outcome, resumed_from: list[int]) -> None:
    assert outcome.figures["epochs_run"] == 6
    assert [each["epoch"] for each in outcome.state.history] == [1, 2, 3, 4, 5, 6]
    assert outcome.state.resumed_from == resumed_from
    np.testing.assert_array_equal(outcome.weights["0000"], [6, 6])


def test_a_process_that_dies_costs_nothing(
    trainer: MachineTrainer, tmp_path: Path, marks: Path
) -> None:
    lines = Lines(tmp_path / "epochs")
    assert_whole(run(trainer, tmp_path, Counting(marks, "die"), lines), [3])
    assert len(list(marks.iterdir())) == 2
    # Trackers get each epoch once, though local mode has no callbacks.
    assert lines.path.read_text() == "123456"


def test_a_process_that_always_dies_is_one_line(
    trainer: MachineTrainer, tmp_path: Path, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "_FAILURES", 1)
    words = r"^the training failed 2 times, last with ProcessDiedError: exit code 9; rerun the comm"
    with pytest.raises(ClusterError, match=words):
        run(trainer, tmp_path, Counting(marks, "die always"))
    assert len(list(marks.iterdir())) == 2


def test_a_training_that_diverges_is_not_tried_again(
    trainer: MachineTrainer, tmp_path: Path, marks: Path
) -> None:
    with pytest.raises(ConfigError, match="diverged in epoch 3"):
        run(trainer, tmp_path, Counting(marks, "diverge"))
    assert len(list(marks.iterdir())) == 1
    assert not list((tmp_path / "model").rglob("state.safetensors"))


@pytest.mark.skipif(sys.platform != "linux", reason="a child dies with its parent on Linux")
def test_a_killed_driver_takes_its_process_along_and_goes_on(
    trainer: MachineTrainer, tmp_path: Path, marks: Path
) -> None:
    code = (
        "import pathlib, sys\n"
        "from tests.training.fitting import test_distributed as t\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "t.run(t.MachineTrainer(False), folder, t.Counting(folder / 'marks', 'orphan'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, cwd=Path(__file__).parents[3]
    )
    assert done.returncode == -signal.SIGKILL
    (child,) = marks.iterdir()
    deadline = time.monotonic() + 20
    while _command(int(child.name)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert_whole(run(trainer, tmp_path, Counting(marks, "orphan")), [3])
    assert (tmp_path / "model" / TRAINING).is_dir()  # until the model is published


def _command(pid: int) -> bytes:
    """Empty for a zombie, which nobody may reap here."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_what_a_step_raises_is_raised_here(trainer: MachineTrainer) -> None:
    assert trainer.call(parse_head, "3,2") == (3, 2)
    with pytest.raises(ConfigError, match=r"^unknown head 'wide': write linear"):
        trainer.call(parse_head, "wide")
    with pytest.raises(ClusterError, match=r"died \(exit code 3\)"):
        trainer.call(os._exit, 3)
