"""Every epoch is written once, whatever becomes of the places, and no training is lost for them."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from monkeyray.errors import ConfigError
from monkeyray.storage.store import Storage
from monkeyray.training.options import TrainConfig
from monkeyray.training.tracking.driver import Tracking
from monkeyray.training.tracking.tracker import EpochLog, Stage, Tracker
from tests.support.tracked import epochs, figures


@dataclass
class Flaky(Tracker):
    """A place that can be away, and that may have got what it says it has not."""

    away: bool = False
    loses_answers: bool = False
    there: list[int] = field(default_factory=list)
    calls: int = 0

    def last(self, stage: str) -> int:
        assert stage == "head"
        self._call()
        return max(self.there, default=-1)

    def write(self, stage: str, epochs: Sequence[tuple[float, Any]]) -> None:
        self._call()
        self.there += [each["epoch"] for _, each in epochs]
        if self.loses_answers:
            raise TimeoutError("no answer")

    def _call(self) -> None:
        self.calls += 1
        if self.away:
            raise ConnectionError("http://me:hunter2@host is away")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still but for what a test adds to its one number."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_every_epoch_is_written_once(clock: list[float]) -> None:
    place, other = Flaky(), Flaky(away=True)
    log = EpochLog("head", [place, other])
    for epoch in range(1, 7):
        log.add(figures(epoch))
        clock[0] += 2
    # Not at every epoch, and the one that is away is not asked again and again.
    assert place.there == [1, 2, 3, 4]
    assert other.calls == 1
    (problem,) = log.flush()
    assert "ConnectionError" in problem
    assert "hunter2" not in problem
    assert place.there == [1, 2, 3, 4, 5, 6]
    other.away = False
    clock[0] += 61
    log.add(figures(7))
    assert log.flush() == []
    assert place.there == other.there == [1, 2, 3, 4, 5, 6, 7]


def test_unreachable_server_is_retried_less_and_less_often(clock: list[float]) -> None:
    place = Flaky(away=True)
    log = EpochLog("head", [place])
    for epoch in range(1, 3601):
        log.add(figures(epoch))
        clock[0] += 1
    assert place.calls == 6  # at the start, and after 1, 3, 7, 15 and 31 minutes
    place.away = False
    clock[0] += 3600
    assert log.flush() == []
    assert place.there == list(range(1, 3601))


def test_an_answer_that_is_lost_writes_nothing_twice(clock: list[float]) -> None:
    place = Flaky(loses_answers=True)
    log = EpochLog("head", [place])
    log.add(figures(1))
    place.loses_answers = False
    clock[0] += 61
    log.add(figures(2))
    assert place.there == [1, 2]


def test_a_resumed_training_goes_on(clock: list[float]) -> None:
    place = Flaky()
    first = EpochLog("head", [place])
    for epoch in range(1, 6):
        first.add(figures(epoch))
        clock[0] += 10
    # The checkpoint is of epoch 3; what came after is trained once more.
    second = EpochLog("head", [place], epochs(1, 3))
    for epoch in range(4, 8):
        second.add(figures(epoch))
    second.flush()
    assert place.there == [1, 2, 3, 4, 5, 6, 7]
    # What nobody could write before is completed from the history.
    late = Flaky()
    assert EpochLog("head", [late], epochs(0, 7)).flush() == []
    assert late.there == [0, 1, 2, 3, 4, 5, 6, 7]
    assert EpochLog("head", [late], epochs(0, 7)).flush() == []
    assert late.there == [0, 1, 2, 3, 4, 5, 6, 7]


def test_no_trackers() -> None:
    log = Stage().open()
    log.add(figures(1))
    assert log.flush() == []


@pytest.mark.parametrize(
    ("option", "package"), [("mlflow", "mlflow"), ("tensorboard", "tensorboardX")]
)
def test_a_missing_package_is_named_at_once(
    option: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == package else find(name)
    )
    options: dict[str, Any] = {option: str(tmp_path / "runs")}
    config = TrainConfig(images="images", model=str(tmp_path / "m"), **options)
    with pytest.raises(ConfigError, match=rf"pip install 'monkeyray\[{option}\]'"):
        Tracking(config, Storage(), print)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mlflow": "http://me:hunter2@host"}, "MLFLOW_TRACKING_PASSWORD"),
        ({"mlflow": "http:/me:hunter2@host"}, "malformed URI"),
        ({"mlflow": " "}, "empty"),
        ({"mlflow": "nonsense://host"}, "cannot be used"),
        ({"mlflow": "local", "mlflow_experiment": " "}, "--mlflow-experiment"),
        ({"tensorboard": "s3://me:hunter2@bucket/x"}, "credentials"),
        ({"tensorboard": "s3:/bucket"}, "malformed URI"),
    ],
)
def test_mistakes(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Tracking(TrainConfig(images="images", model=str(tmp_path), **options), Storage(), print)
    assert "hunter2" not in str(caught.value)


def test_a_database_needs_the_whole_of_mlflow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "sqlalchemy" else find(name)
    )
    config = TrainConfig(images="images", model=str(tmp_path), mlflow=f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(ConfigError, match="pip install mlflow"):
        Tracking(config, Storage(), print)


def test_local_is_refused_in_a_submitted_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import monkeyray.runs.cluster

    monkeypatch.setattr(monkeyray.runs.cluster, "in_submitted_job", lambda: True)
    for option, path in (("local", "mlruns"), ("my/runs", "my/runs")):
        config = TrainConfig(images="images", model=str(tmp_path), mlflow=option)
        with pytest.raises(ConfigError, match=f"--mlflow {path} is a relative path"):
            Tracking(config, Storage(), print)
