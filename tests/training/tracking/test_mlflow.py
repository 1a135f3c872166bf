"""Runs in MLflow's files: one for each training, however often it is broken off."""

from __future__ import annotations

from pathlib import Path

import pytest

from monkeyray.training.tracking.mlflow import MlflowRun, local_place, tracking_uri
from monkeyray.training.tracking.tracker import EpochLog
from tests.support.tracked import epochs, runs_of


def test_a_run_goes_on_until_it_is_finished(tmp_path: Path) -> None:
    def begin(key: str = "one") -> MlflowRun:
        run = MlflowRun(str(tmp_path), "e", "name", key, {"head": "linear", "l2": {"a": 0.0}})
        run.begin()
        return run

    first = begin()
    log = EpochLog("head", [first])
    for epoch in epochs(1, 3):
        log.add(epoch)
    assert log.flush() == []
    first.interrupt("FAILED")
    again = begin()
    assert again == first
    assert begin("two").run_id != first.run_id
    log = EpochLog("head", [again], epochs(1, 2))
    for epoch in epochs(3, 300):
        log.add(epoch)
    assert log.flush() == []
    assert again.last("fine_tuning") == -1
    assert EpochLog("fine_tuning", [again], epochs(0, 1)).flush() == []
    client, runs = runs_of(tmp_path, "e")
    assert sorted(run.info.status for run in runs) == ["RUNNING", "RUNNING"]
    splits = {"test": {"accuracy": 0.75, "labels": ["a"]}, "estimate": {"loss": 1}}
    model = {"model_id": "abc", "metrics": splits}
    again.finish(model, {"report.html": "<p>ä"})
    for key, first_epoch in (("head/train_loss", 1), ("fine_tuning/validation_loss", 0)):
        steps = [each.step for each in client.get_metric_history(first.run_id, key)]
        assert steps == list(range(first_epoch, 301 if "head" in key else 2))
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"head": "linear", "l2/a": "0.0"}
    assert run.data.metrics["test/accuracy"] == 0.75
    assert run.data.tags["monkeyray.model_id"] == "abc"
    assert Path(client.download_artifacts(first.run_id, "report.html")).read_text() == "<p>ä"
    # A training that had ended is another one when it is run again.
    assert begin().run_id != first.run_id


@pytest.mark.parametrize(
    ("option", "uri"),
    [
        ("http://host:5000/path", "http://host:5000/path"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
        ("/runs", "/runs"),
        ("file:///my%20runs", "/my runs"),
    ],
)
def test_option_values(option: str, uri: str) -> None:
    assert tracking_uri(option) == uri
    assert local_place(option) == (uri if uri.startswith("/") else None)


def test_local_is_where_mlflow_itself_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("local") == str(tmp_path / "mlruns")
