"""What a second training costs when the features are cached: end to end, and the head alone.

    python -m tests.benchmarks.retrain --photos FOLDER --images 1080 50000

Makes that many different pictures of 256 pixels from the photographs (cropped, perhaps mirrored,
brighter or darker), trains on them, and trains again with another penalty, which opens no image.
Each training is a process of its own, as a user would start it. Pictures that are too alike to be
in different folds are kept together, as in any training.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

ROOT = Path(__file__).parents[2]


def make(source: Path, folder: Path, seeds: list[int]) -> None:
    """Pictures of one photograph, one per seed."""
    with Image.open(source) as image:
        image.draft("RGB", (448, 448))
        photo = image.convert("RGB")
    for seed in seeds:
        random = np.random.default_rng(seed)
        width, height = photo.size
        share = random.uniform(0.6, 0.95)
        left = random.uniform(0, 1 - share) * width
        top = random.uniform(0, 1 - share) * height
        box = (left, top, left + share * width, top + share * height)
        picture = photo.resize((256, 256), Image.Resampling.BILINEAR, box)
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = ImageEnhance.Brightness(picture).enhance(random.uniform(0.6, 1.4))
        target = folder / source.parent.name / f"{seed:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target, quality=80)


def make_all(photos: Path, folder: Path, images: int) -> None:
    """That many pictures, of all photographs in turn."""
    sources = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    np.random.default_rng(0).shuffle(sources)  # some of all labels, however few
    with ProcessPoolExecutor() as pool:
        jobs = [
            pool.submit(make, source, folder, list(range(number, images, len(sources))))
            for number, source in enumerate(sources)
        ]
        for job in jobs:
            job.result()


def train(images: Path, work: Path, name: str, *options: str) -> dict[str, Any]:
    """One training in a process of its own: its seconds, and its own figures."""
    summary = work / f"{name}.json"
    command = [
        sys.executable, str(ROOT / "jobs" / "train.py"), "--images", str(images),
        "--model", str(work / name), "--features", str(work / "features"), "--quiet",
        "--summary-json", str(summary), *options,
    ]  # fmt: skip
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    told = json.loads(summary.read_text())
    return {"seconds": round(seconds, 2), "told": told}


def main() -> None:
    """Train twice on each number of images, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[1080, 50_000])
    given = parser.parse_args()
    for count in given.images:
        with tempfile.TemporaryDirectory(prefix="monkeyray-retrain-") as name:
            work = Path(name)
            make_all(given.photos, work / "images", count)
            first = train(work / "images", work, "first")
            second = train(work / "images", work, "second", "--l2", "5")
            big = train(work / "images", work, "big", "--head", "1024,1024,512")
        ratio = round(first["seconds"] / second["seconds"], 1)
        found = {"images": count, "first": first, "second": second, "big head": big}
        print(json.dumps(found | {"times as fast": ratio}, indent=1), flush=True)


if __name__ == "__main__":
    main()
