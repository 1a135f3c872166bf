"""Where fine-tuning helps: photographs that are unlike those that the backbone was trained on.

    python -m tests.benchmarks.finetune --photos FOLDER --seeds 0 1 2

Makes each photograph look as if a small camera had taken it at night: grey, dark, noisy, and 72
pixels high or wide. Trains on these with the frozen backbone, and with its last four blocks tuned.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from monkeyray.options import StoreConfig
from monkeyray.runs.cluster import connected
from monkeyray.training.options import TrainConfig
from monkeyray.training.train import train


def at_night(photos: Path, folder: Path) -> None:
    """Write the photographs of labelled sub-folders as they would look at night."""
    sources = sorted(
        path for label in photos.iterdir() if label.is_dir() for path in label.iterdir()
    )
    for index, source in enumerate(sources):
        random = np.random.default_rng(index)
        image = Image.open(source).convert("L")
        scale = 72 / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        small = np.asarray(image.resize(size, Image.Resampling.BOX), float)
        dark = 255 * (small / 255) ** 1.6 * 0.7 + random.normal(0, 12, small.shape)
        target = folder / source.parent.name / f"{source.name.split('.')[0]}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        night = Image.fromarray(np.clip(dark, 0, 255).astype(np.uint8)).convert("RGB")
        night.save(target, quality=85)


def main() -> None:
    """Train both ways with each seed, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--layers", default="4-blocks")
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--epochs", type=int, default=25)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, connected("local"):
        work = Path(name)
        at_night(arguments.photos, work / "night")
        for seed in arguments.seeds:
            config = TrainConfig(
                images=str(work / "night"), model=str(work / "model"),
                features=str(work / "features"), seed=seed,
                store=StoreConfig(quiet=True),
            )  # fmt: skip
            tuned = replace(
                config, fine_tune=arguments.layers, fine_tune_rate=arguments.rate,
                fine_tune_epochs=arguments.epochs, batch_size=32,
            )  # fmt: skip
            for way, each in (("frozen", config), ("tuned", tuned)):
                start = time.monotonic()
                trained = train(each)
                metrics = trained.model["metrics"]
                found = {
                    "seed": seed,
                    "way": way,
                    "seconds": round(time.monotonic() - start, 1),
                    "source": metrics["estimate"]["source"],
                    "accuracy": trained.accuracy,
                    "loss": metrics["estimate"]["loss"],
                }
                if way == "tuned":
                    figures = metrics["fine_tuning"]
                    found |= {
                        key: figures[key] for key in ("before", "after", "kept", "best_epoch")
                    }
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
