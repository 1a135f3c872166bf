"""The demo: draws a small collection, trains on it and scores its unlabelled images."""

from __future__ import annotations

import contextlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monkeyray.cli.demo_images import DemoImages, draw_demo_images
from monkeyray.cli.options import DemoConfig
from monkeyray.console import Result
from monkeyray.errors import ConfigError
from monkeyray.runs.cluster import connected, is_asked_for
from monkeyray.scoring.dry_run import Estimate
from monkeyray.scoring.options import ScoreConfig
from monkeyray.scoring.score import score
from monkeyray.scoring.summary import Summary
from monkeyray.storage.backends.local import local_errors
from monkeyray.storage.location import Location
from monkeyray.training.options import TrainConfig
from monkeyray.training.summary import Trained
from monkeyray.training.train import train

_MARK = ".monkeyray-demo"


@dataclass(frozen=True, repr=False)
class Demo(Result):
    """The results of the demo."""

    images: DemoImages
    trained: Trained
    scored: Summary | Estimate
    predictions: Path

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `trained` and `scored`, as for those commands."""
        return {"trained": self.trained.to_json(), "scored": self.scored.to_json()}

    def __str__(self) -> str:
        query = f"SELECT label, count(*) FROM '{self.predictions}/*.parquet' GROUP BY label"
        return (
            f"{self.trained}\n\n{self.scored}\n\n"
            "open the report in a browser, and query the predictions, for example with pandas:\n"
            f'  {sys.executable} -c "import pandas; '
            f"print(pandas.read_parquet('{self.predictions}'))\"\n"
            "or with the DuckDB command line:\n"
            f'  duckdb -c "{query}"'
        )


def demo(config: DemoConfig) -> Demo:
    """Draw, train and score in a folder.

    Raises ConfigError if it holds other files, and StorageError if it cannot be written.
    """
    folder = Path(Location.parse(config.folder).path)
    with local_errors(str(folder), writing=True):
        _make_empty(folder)
    reporter = config.store.reporter()
    reporter.say(f"drawing a camera-trap collection in {folder}")
    images = draw_demo_images(folder / "images", config.seed)
    predictions = folder / "predictions"
    model = str(folder / "model")
    address = config.store.ray_address
    # One connection for both, if a cluster is asked for.
    cluster = connected(address, config.store.debug, reporter.say)
    with cluster if is_asked_for(address) else contextlib.nullcontext():
        trained = train(
            TrainConfig(
                images=str(images.labelled), model=model, seed=config.seed, store=config.store
            )
        )
        scored = score(
            ScoreConfig(
                images=str(images.unlabelled),
                model=model,
                predictions=str(predictions),
                threshold=0.8,
                store=config.store,
            )
        )
    return Demo(images, trained, scored, predictions)


def _make_empty(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--folder {folder} is a file: give a new or empty folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise ConfigError(f"--folder {folder} holds other files: give a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    # The mark stays, so that a partly deleted demo is still recognised.
    (folder / _MARK).touch()
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        elif child.name != _MARK:
            child.unlink()
