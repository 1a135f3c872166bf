"""The options of the demo."""

from __future__ import annotations

from dataclasses import dataclass

from monkeyray.options import JobConfig, Place, Seed, require
from monkeyray.storage.location import Location


@dataclass(frozen=True, kw_only=True)
class DemoConfig(JobConfig):
    """Draw a small camera-trap collection, train a model on it and score it."""

    folder: Place = "monkeyray-demo"
    """Folder for the drawn images, the model and the predictions. Replaces an older demo."""

    seed: Seed = 0
    """Seed of the drawing and of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            Location.of(self.folder).is_local, "folder", self.folder, "a folder on this machine"
        )
