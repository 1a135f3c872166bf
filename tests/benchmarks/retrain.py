"""What a second training costs when the features are cached: end to end, and the head alone.

    python -m tests.benchmarks.retrain --photos FOLDER --images 1080 50000

Makes that many different pictures of 256 pixels from the photographs (cropped, perhaps mirrored,
brighter or darker), trains on them, and trains again with another penalty, which opens no image.
Each training is a process of its own, as a user would start it. Pictures that are too alike to be
in different folds are kept together, as in any training.

    python -m tests.benchmarks.retrain --synthetic 100000 1000000

Writes the kept features, hashes and thumbnails of that many images that do not exist: 20 labels, of
which 2% are wrong, and 2% copies of another image. Trains on them for ten epochs, and prints the
seconds of each phase, those of cores (which other programs disturb less), and the anonymous
memory of all processes together.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance

from monkeyray.model.backbones import load_weights
from monkeyray.model.engines.choice import choose_engine
from monkeyray.model.network import Network
from monkeyray.scoring.features import FeatureCache
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.processes import processes_below

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
    """One training in a process of its own: its seconds, those of cores, and its own figures."""
    summary = work / f"{name}.json"
    command = [
        sys.executable, str(ROOT / "jobs" / "train.py"), "--images", str(images),
        "--model", str(work / name), "--features", str(work / "features"), "--quiet",
        "--summary-json", str(summary), *options,
    ]  # fmt: skip
    start, before = time.monotonic(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.monotonic() - start, os.times()
    cores = sum(after[2:4]) - sum(before[2:4])  # of children that have ended, and of theirs
    told = json.loads(summary.read_text())
    return {"seconds": round(seconds, 2), "cores": round(cores, 2), "told": told}


LABELS, WIDTH = 20, 1024


def write_cache(place: Path, manifest: Path, images: int) -> None:
    """The files of a feature cache, and the manifest of its images."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(LABELS, WIDTH)).astype(np.float32)
    (place / "pass-00000").mkdir(parents=True)
    uris: list[str] = []
    labels: list[str] = []
    for number, start in enumerate(range(0, images, 4096)):
        count = min(4096, images - start)
        truth = random.integers(0, LABELS, count)
        noise = random.standard_normal((count, WIDTH), np.float32)
        vectors = np.maximum(0.12 * centres[truth] + noise, 0)
        blurred = random.integers(0, 256, (count, 8, 8), np.uint8)
        thumbnails = blurred.repeat(4, axis=1).repeat(4, axis=2)
        hashes = [hashlib.sha256(row.tobytes()).hexdigest() for row in blurred]
        copies = np.flatnonzero(random.random(count) < 0.02)
        for copy in copies[copies > 0].tolist():
            # Of the same bytes, or of the same picture.
            vectors[copy], thumbnails[copy] = vectors[copy - 1], thumbnails[copy - 1]
            if copy % 2:
                hashes[copy] = hashes[copy - 1]
            truth[copy] = truth[copy - 1]
        wrong = random.random(count) < 0.02
        truth[wrong] = random.integers(0, LABELS, wrong.sum())
        its = [f"/no/images/{truth[i]:02d}/{start + i:08d}.jpg" for i in range(count)]
        columns = {
            "uri": its,
            # As with_versions has it for an image that is not there.
            "etag_or_mtime": ["none"] * count,
            "size_bytes": pa.nulls(count, pa.int64()),
            "status": ["ok"] * count,
            "sha256": hashes,
            "thumbnail": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(1024), count, [None, pa.py_buffer(thumbnails.tobytes())]
            ),
            "embedding": pa.FixedSizeListArray.from_arrays(vectors.ravel(), WIDTH),
        }
        path = place / "pass-00000" / f"part-{number:05d}.parquet"
        pq.write_table(pa.table(columns), path, compression="none")
        uris += its
        labels += [f"{label:02d}" for label in truth.tolist()]
    pq.write_table(pa.table({"uri": uris, "label": labels}), manifest)


def anonymous(root: int) -> int:
    """The anonymous memory of a process and its descendants, bytes, pages shared by some counted
    once."""
    total = 0
    for pid in [root, *processes_below(b"", root)]:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss_Anon:"):
                    total += 1024 * int(line.split()[1])
    return total


def train_synthetic(images: int, work: Path, *options: str) -> dict[str, Any]:
    """A training on the kept features of images that do not exist."""
    network = Network("mobilenet", load_weights("mobilenet", "imagenet", Storage()), ("middle",))
    engine = choose_engine("auto", "float32", False)
    cache = FeatureCache(Location.of(str(work / "features")), Storage(), network, engine)
    write_cache(Path(cache.place.path), work / "list.parquet", images)
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.5):
            most = max(most, anonymous(os.getpid()) - anonymous_here)

    anonymous_here = anonymous(os.getpid())
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        found = train(work / "list.parquet", work, "model", "--epochs", "10", *options)
    finally:
        done.set()
        thread.join()
    result = found["told"]["result"]
    return {
        "images": images,
        "seconds": found["seconds"],
        "seconds of cores": found["cores"],
        "phases": result["seconds"],
        "anonymous GiB": round(most / 2**30, 2),
        "accuracy": result["estimate"]["accuracy"],
    }


def main() -> None:
    """Train on each number of images, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[1080, 50_000])
    parser.add_argument("--synthetic", type=int, nargs="+", default=[])
    parser.add_argument("options", nargs="*", help="of `monkeyray train`, for --synthetic")
    given = parser.parse_args()
    for count in given.synthetic:
        with tempfile.TemporaryDirectory(prefix="monkeyray-retrain-") as name:
            print(json.dumps(train_synthetic(count, Path(name), *given.options)), flush=True)
    for count in given.images if given.photos else ():
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
