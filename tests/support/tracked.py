"""Epochs of a training, and what became of them in TensorBoard and MLflow."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from monkeyray.storage.store import Storage


def figures(epoch: int) -> dict[str, Any]:
    if epoch == 0:
        nothing = {"train_loss": None, "train_accuracy": None}
        return {"epoch": 0, **nothing, "validation_loss": 2.0, "validation_accuracy": 0.5}
    return {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "train_accuracy": 0.5,
        "validation_loss": 2 / (epoch + 1),
        "validation_accuracy": 0.25,
    }


def epochs(first: int, last: int) -> list[dict[str, Any]]:
    return [figures(epoch) for epoch in range(first, last + 1)]


def curves(storage: Storage, folder: str) -> dict[str, dict[int, float]]:
    """Tag to step to value of all event files of a folder; fails where a step is there twice."""
    import tensorflow as tf

    found: dict[str, dict[int, float]] = {}
    for entry in storage.list(folder):
        assert "tfevents" in entry.uri  # what TensorBoard looks for
        with tempfile.NamedTemporaryFile() as file:
            file.write(storage.read(entry.uri).data)
            file.flush()
            first, *rest = [
                tf.compat.v1.Event.FromString(record.numpy())
                for record in tf.data.TFRecordDataset(file.name)
            ]
        assert first.file_version == "brain.Event:2"
        for event in rest:
            assert event.wall_time > 1.7e9
            for value in event.summary.value:
                steps = found.setdefault(value.tag, {})
                assert event.step not in steps
                steps[event.step] = value.simple_value
    return found


def runs_of(place: Path, experiment: str) -> tuple[Any, list[Any]]:
    """A client, and all runs of an experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=str(place))
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return client, list(client.search_runs([found.experiment_id]))
