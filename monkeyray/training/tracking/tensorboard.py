"""TensorBoard event files: the curves of a training, below any URI.

    place/<run>/train/events.out.tfevents.…        on the training images
    place/<run>/validation/events.out.tfevents.…   on the validation images

TensorBoard reads all event files of a folder in the order of their names, and draws both folders
into one chart. Since not every store can append, each file is published whole; its name ends in the
last epoch that it holds.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monkeyray.errors import ConfigError
from monkeyray.redact import masked
from monkeyray.storage.store import Storage
from monkeyray.training.tracking.tracker import Epoch, Tracker

#: In the order in which TensorBoard is to read them.
_STAGES = ("head", "fine_tuning")

_FOLDERS = ("train", "validation")

_NAME = re.compile(r"events\.out\.tfevents\.\d+-(?P<stage>[a-z_]+)-(?P<last>\d+)")


def check_tensorboard() -> None:
    """Raise ConfigError if tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError("--tensorboard needs tensorboardX: pip install 'monkeyray[tensorboard]'")


@dataclass(frozen=True)
class EventFiles(Tracker):
    """The event files of one run. `place`: its folder."""

    storage: Storage
    place: str

    def __str__(self) -> str:
        return f"event files in {masked(self.place)}"

    def begin(self) -> str:
        """Nothing to create; returns where the files will be."""
        return f"TensorBoard: event files of {self.place.rsplit('/', 1)[-1]} in {self.place}"

    def last(self, stage: str) -> int:
        """The last epoch in both folders, -1 for none. Raises StorageError."""
        return min(self._last(folder, stage) for folder in _FOLDERS)

    def write(self, stage: str, epochs: Sequence[Epoch]) -> None:
        """Publish the epochs that each folder lacks. Raises StorageError."""
        for folder in _FOLDERS:
            last = self._last(folder, stage)
            if new := [epoch for epoch in epochs if epoch[1]["epoch"] > last]:
                name = f"{_STAGES.index(stage)}-{stage}-{new[-1][1]['epoch']:06d}"
                uri = f"{self.place}/{folder}/events.out.tfevents.{name}"
                self.storage.write(uri, _encode(stage, folder, new))

    def _last(self, folder: str, stage: str) -> int:
        names = [e.uri.rsplit("/", 1)[-1] for e in self.storage.list(f"{self.place}/{folder}")]
        found = [match for name in names if (match := _NAME.fullmatch(name))]
        return max((int(each["last"]) for each in found if each["stage"] == stage), default=-1)


def _encode(stage: str, folder: str, epochs: Sequence[Epoch]) -> bytes:
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    with tempfile.TemporaryDirectory() as temporary:
        writer = EventsWriter(str(Path(temporary) / "events"))
        for seconds, figures in epochs:
            for name in ("loss", "accuracy"):
                value = figures[f"{folder}_{name}"]
                if value is not None:
                    summary = scalar(f"{stage}/{name}", value)
                    step = figures["epoch"]
                    writer.write_event(Event(wall_time=seconds, step=step, summary=summary))
        writer.close()
        (file,) = Path(temporary).iterdir()
        return file.read_bytes()
