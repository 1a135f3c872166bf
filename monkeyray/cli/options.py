"""The options of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field

from monkeyray.options import Place, StoreConfig, check_seed, require
from monkeyray.storage.location import is_local, normalise


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Draw a small camera-trap collection, train on it, score it, and say where the results are."""

    folder: Place = "monkeyray-demo"
    """Folder for the drawn images, the model and the predictions. An older demo is replaced."""

    seed: int = 0
    """Seed of the drawing and of the training."""

    store: StoreConfig = field(default_factory=StoreConfig)

    def __post_init__(self) -> None:
        normalise(self.folder)
        require(is_local(self.folder), "folder", self.folder, "a folder of this machine")
        check_seed(self.seed)
