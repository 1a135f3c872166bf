"""TensorBoard's event files on a disk and on S3."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from monkeyray.storage.location import join
from monkeyray.storage.store import Storage
from monkeyray.training.event_files import EventFiles
from monkeyray.training.tracking import EpochLog
from tests.training.test_tracking import epochs


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


@pytest.mark.parametrize("store", ["disk", "s3"])
def test_event_files(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if store == "s3":
        storage, place = request.getfixturevalue("s3"), "s3://photos/tensorboard/run"
    else:
        storage, place = Storage(), str(tmp_path / "run")

    assert EventFiles(storage, place, "head", 0).last() == -1
    log = EpochLog([EventFiles(storage, place, "head", 0)])
    for epoch in epochs(1, 4):
        log.add(epoch)
        assert log.flush() == []
    # From the checkpoint of epoch 2, which is not where a file ends in the second life.
    log = EpochLog([EventFiles(storage, place, "head", 0)], epochs(1, 2))
    for epoch in epochs(3, 12):
        log.add(epoch)
    assert log.flush() == []
    tuning = EpochLog([EventFiles(storage, place, "fine_tuning", 1)])
    for epoch in epochs(0, 2):
        tuning.add(epoch)
    assert tuning.flush() == []
    names = [entry.uri.rsplit("/", 1)[-1] for entry in storage.list(join(place, "train"))]
    assert len(names) > 3
    # In the order in which TensorBoard reads them.
    assert names == sorted(names)
    assert [name for name in names if "fine" in name] == names[-2:]
    for split in ("train", "validation"):
        found = curves(storage, join(place, split))
        start = 1 if split == "train" else 0
        assert found == {
            f"{stage}/{name}": {
                each["epoch"]: pytest.approx(each[f"{split}_{name}"])
                for each in epochs(first, last)
            }
            for stage, first, last in (("head", 1, 12), ("fine_tuning", start, 2))
            for name in ("loss", "accuracy")
        }
    assert EventFiles(storage, place, "head", 0).last() == 12
    # The same training from the start again begins its curves anew.
    EventFiles(storage, place, "head", 0).forget(-1)
    assert EventFiles(storage, place, "head", 0).last() == -1
    assert EventFiles(storage, place, "fine_tuning", 1).last() == 2
