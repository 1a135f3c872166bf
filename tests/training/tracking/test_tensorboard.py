"""TensorBoard's event files on a disk and on S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from monkeyray.storage.store import Storage
from monkeyray.training.tracking.tensorboard import EventFiles
from monkeyray.training.tracking.tracker import EpochLog
from tests.support.tracked import curves, epochs


@pytest.mark.parametrize("store", ["disk", "s3"])
def test_event_files(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if store == "s3":
        storage, place = request.getfixturevalue("s3"), "s3://photos/tensorboard/run"
    else:
        storage, place = Storage(), str(tmp_path / "run")

    files = EventFiles(storage, place)
    assert files.last("head") == -1
    log = EpochLog("head", [files])
    for epoch in epochs(1, 4):
        log.add(epoch)
        assert log.flush() == []
    # From the checkpoint of epoch 2, which is not where a file ends in the second life.
    log = EpochLog("head", [files], epochs(1, 2))
    for epoch in epochs(3, 12):
        log.add(epoch)
    assert log.flush() == []
    tuning = EpochLog("fine_tuning", [files])
    for epoch in epochs(0, 2):
        tuning.add(epoch)
    assert tuning.flush() == []
    names = [entry.uri.rsplit("/", 1)[-1] for entry in storage.list(f"{place}/train")]
    assert len(names) > 3
    # In the order in which TensorBoard reads them.
    assert names == sorted(names)
    assert [name for name in names if "fine" in name] == names[-2:]
    for split in ("train", "validation"):
        found = curves(storage, f"{place}/{split}")
        start = 1 if split == "train" else 0
        assert found == {
            f"{stage}/{name}": {
                each["epoch"]: pytest.approx(each[f"{split}_{name}"])
                for each in epochs(first, last)
            }
            for stage, first, last in (("head", 1, 12), ("fine_tuning", start, 2))
            for name in ("loss", "accuracy")
        }
    assert (files.last("head"), files.last("fine_tuning")) == (12, 2)
    # A write that was interrupted between the two folders is completed.
    newest = max(e.uri for e in storage.list(f"{place}/validation") if "head" in e.uri)
    storage.delete(newest)
    assert files.last("head") < 12
    assert EpochLog("head", [files], epochs(1, 13)).flush() == []
    assert list(curves(storage, f"{place}/train")["head/loss"]) == list(range(1, 14))
    assert list(curves(storage, f"{place}/validation")["head/loss"]) == list(range(1, 14))
