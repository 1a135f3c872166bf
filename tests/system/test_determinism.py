"""The same command gives the same model, bit for bit: fine-tuned with augmentation, killed,
tracked or not, on this machine or on Ray.

tests/system/test_jobs.py has the training of the head alone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from monkeyray.options import StoreConfig
from monkeyray.storage.store import Storage
from monkeyray.training.options import TrainConfig
from monkeyray.training.summary import Trained
from monkeyray.training.train import train
from tests.support.processes import processes_below
from tests.support.tracked import curves, runs_of
from tests.support.weed import free_port

EPOCHS = 2
TUNING_EPOCHS = 4


def both_checkpointed(model: Path) -> bool:
    """Whether there is a checkpoint of the head and one of the fine-tuning."""
    return len(list(model.glob(".training/*/state.safetensors"))) == 2


def test_a_process_killed_in_fine_tuning_changes_nothing(
    trained: Trained, few: Path, tmp_path: Path
) -> None:
    """Two whole trainings, so that it also shows that they repeat, with augmentation."""

    def run(name: str, **options: Any) -> dict[str, Any]:
        return train(
            TrainConfig(
                images=str(few),
                model=str(tmp_path / name),
                limit=24,
                features=str(Path(trained.uri) / "features"),
                epochs=EPOCHS,
                fine_tune="1-block",
                fine_tune_epochs=TUNING_EPOCHS,
                batch_size=8,
                embed_workers=1,  # of 24 images
                **options,
            )
        ).model

    killed: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 300
        while not killed and time.monotonic() < deadline:
            if both_checkpointed(tmp_path / "disturbed"):
                for pid in processes_below(b"monkeyray.runs.processes"):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    disturbed = run(
        "disturbed",
        checkpoint_seconds=0,
        store=StoreConfig(quiet=True),
        tensorboard=str(tmp_path / "curves"),
        mlflow=str(tmp_path / "runs"),
    )
    thread.join()
    assert killed
    on_ray = StoreConfig(quiet=True, ray_address="local")
    undisturbed = run("undisturbed", checkpoint_seconds=60, store=on_ray)
    metrics, others = dict(disturbed["metrics"]), dict(undisturbed["metrics"])
    tuning, other = dict(metrics.pop("fine_tuning")), dict(others.pop("fine_tuning"))
    (resumed_from,) = tuning.pop("resumed_from")
    assert 0 < resumed_from < tuning["epochs_run"] == TUNING_EPOCHS
    assert other.pop("resumed_from") == []
    # What the tuned weights give after each epoch, to the last bit, whether they are kept or not.
    losses = {epoch["validation_loss"] for epoch in tuning["history"]}
    assert len(losses) >= TUNING_EPOCHS
    assert metrics["history"] == others["history"]
    assert tuning == other
    assert metrics == others
    # The hashes of all weights, the backbone's too, and all else that decides a score.
    assert disturbed["model_id"] == undisturbed["model_id"]

    # It was tracked and the other one was not. Where the figures went, every epoch is there once.
    client, (run_there,) = runs_of(tmp_path / "runs", "monkeyray")
    (folder,) = (tmp_path / "curves").iterdir()
    assert run_there.info.run_name == folder.name
    assert run_there.info.status == "FINISHED"
    assert run_there.data.tags["monkeyray.model_id"] == disturbed["model_id"]
    assert run_there.data.params["backbone"] == "mobilenet"
    assert (
        run_there.data.metrics["estimate/accuracy"] == disturbed["metrics"]["estimate"]["accuracy"]
    )
    seen = curves(Storage(), str(folder / "validation"))
    for stage, history, count in (
        ("head", metrics["history"], EPOCHS),
        ("fine_tuning", tuning["history"], TUNING_EPOCHS + 1),
    ):
        assert len(history) == count
        assert list(seen[f"{stage}/loss"]) == [each["epoch"] for each in history]
        for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"):
            logged = client.get_metric_history(run_there.info.run_id, f"{stage}/{name}")
            assert [(each.step, each.value) for each in logged] == [
                (each["epoch"], each[name]) for each in history if each[name] is not None
            ]
    for name in ("report.html", "metrics.json"):
        kept = Path(client.download_artifacts(run_there.info.run_id, name))
        assert kept.read_bytes() == (tmp_path / "disturbed" / name).read_bytes()


def test_tracking_server_outage_changes_nothing(
    trained: Trained, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = train(
        TrainConfig(
            images=str(few),
            model=str(tmp_path / "m"),
            features=str(Path(trained.uri) / "features"),
            tensorboard="model",
            mlflow=f"http://127.0.0.1:{free_port()}",
        )
    )
    assert done.model["model_id"] == trained.model["model_id"]
    assert done.model["training"] == trained.model["training"] | {"int8": False}
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(said) == 2
    assert "tried again when training ends" in said[0]
    assert said[1].startswith("warning: tracking is incomplete: MLflow at http://127.0.0.1:")
    # The other place has all of it.
    history = trained.model["metrics"]["history"]
    (folder,) = (tmp_path / "m" / "tensorboard").iterdir()
    for split in ("train", "validation"):
        assert curves(Storage(), str(folder / split)) == {
            f"head/{name}": {
                each["epoch"]: pytest.approx(each[f"{split}_{name}"]) for each in history
            }
            for name in ("loss", "accuracy")
        }
