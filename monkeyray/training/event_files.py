"""TensorBoard's event files: the curves of a training, below any URI.

    place/<run>/train/events.out.tfevents.…        what was trained on
    place/<run>/validation/events.out.tfevents.…   what was not

TensorBoard reads all event files of a folder, in the order of their names, and draws the two
folders into one chart. A file is published whole and never grows, since not every store can append;
its name ends in the last epoch that it holds, so that epochs that are trained once more can be
taken back.

The format is TFRecord files of Event messages, the first of which names its version
(tensorflow/core/util/event.proto). tf.summary.scalar needs the package tensorboard, which
TensorFlow no longer brings.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monkeyray.redact import masked
from monkeyray.storage.location import join
from monkeyray.storage.protocol import Entry
from monkeyray.storage.store import Storage

#: The one written last says what is there.
_SPLITS = ("train", "validation")

_NAME = re.compile(r"events\.out\.tfevents\.\d+-(?P<stage>[a-z_]+)-(?P<last>\d+)")


@dataclass(frozen=True)
class EventFiles:
    """The event files of one stage of a run. `place`: the folder of the run; `order`: of the
    stage among others."""

    storage: Storage
    place: str
    stage: str
    order: int

    def __str__(self) -> str:
        return f"event files of {self.stage} in {masked(self.place)}"

    def forget(self, after: int) -> None:
        """Delete the files with epochs after this one. Raises StorageError."""
        for split in _SPLITS:
            for entry, last in self._files(split):
                if last > after:
                    self.storage.delete(entry.uri)

    def last(self) -> int:
        """The last epoch that is there, -1 for none. Raises StorageError."""
        return max((last for _, last in self._files(_SPLITS[-1])), default=-1)

    def write(self, epochs: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
        """Publish epochs, each with its time in seconds since 1970. Raises StorageError."""
        name = f"events.out.tfevents.{self.order}-{self.stage}-{epochs[-1][1]['epoch']:06d}"
        for split in _SPLITS:
            self.storage.write(join(self.place, split, name), self._encode(split, epochs))

    def _files(self, split: str) -> Iterator[tuple[Entry, int]]:
        for entry in list(self.storage.list(join(self.place, split))):
            found = _NAME.fullmatch(entry.uri.rsplit("/", 1)[-1])
            if found and found["stage"] == self.stage:
                yield entry, int(found["last"])

    def _encode(self, split: str, epochs: Sequence[tuple[float, Mapping[str, Any]]]) -> bytes:
        import tensorflow as tf

        messages = tf.compat.v1
        events = [messages.Event(wall_time=epochs[0][0], file_version="brain.Event:2")]
        for wall_time, figures in epochs:
            values = [
                messages.Summary.Value(tag=f"{self.stage}/{name}", simple_value=value)
                for name in ("loss", "accuracy")
                if (value := figures[f"{split}_{name}"]) is not None
            ]
            events.append(
                messages.Event(
                    wall_time=wall_time,
                    step=figures["epoch"],
                    summary=messages.Summary(value=values),
                )
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "events"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for event in events:
                    writer.write(event.SerializeToString())
            return path.read_bytes()
