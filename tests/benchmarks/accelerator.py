"""How well one engine is fed by all cores: scoring with a GPU that Ray has by name, where an engine
that takes a set time for a batch, and no CPU, stands for it.

    python -m tests.benchmarks.accelerator --photos FOLDER --model BUNDLE --seconds 0.002
    python -m tests.benchmarks.accelerator --photos FOLDER --model BUNDLE --seconds 1

In turns with one process for each core that only reads, hashes and decodes the same images. The
engine's own limit is 256 images in `--seconds`. All but the engine is real: files, hashes, EXIF,
scores and outlier scores, Parquet. Figures are images/s; `share` is that of the smaller limit.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from monkeyray.arrays import Array, Floats
from monkeyray.console import Reporter
from monkeyray.images.decode import Limits, decode
from monkeyray.images.listing import list_images
from monkeyray.model.bundle import load_bundle
from monkeyray.model.engines.choice import Engine
from monkeyray.runs.lease import hold
from monkeyray.runs.place import create_run
from monkeyray.runs.plan import collect, shard_sizes
from monkeyray.runs.workers.decode_process import Work
from monkeyray.runs.workers.pools import RayPool
from monkeyray.runs.workers.worker import Job
from monkeyray.scoring.rows import BatchScorer, ScoreOptions
from monkeyray.storage.keys import sha256
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.benchmarks.contenders import CORES, SIZE, paths_of, spread
from tests.benchmarks.speed import collect as collect_photos
from tests.benchmarks.speed import steady

TOGETHER = 256


def sleeping_engine(seconds: float, width: int, labels: int) -> Engine:
    """An engine that only takes its time: `seconds` for up to 256 images."""

    def engine(pixels: Array) -> tuple[Floats, Floats]:
        assert len(pixels) <= TOGETHER
        time.sleep(seconds if len(pixels) else 0)
        shape = (len(pixels), 1, width)
        return np.ones(shape, np.float32), np.zeros((len(pixels), labels), np.float32)

    return engine


def read_hash_decode(core: int, images: str) -> list[list[float]]:
    """When which number of images was done by one process."""
    done = []
    for path in paths_of(images)[core::CORES]:
        data = Path(path).read_bytes()
        sha256(data)
        decode(data, SIZE, views=("middle",))
        done.append([time.time(), 1])
    return done


def score(images: Path, model: str, seconds: float, out: Path) -> list[list[float]]:
    """When which number of images was scored."""
    storage, bundle = Storage(), load_bundle(model, Storage())
    options = ScoreOptions(("middle",), 5, None, embeddings=False, limits=Limits())
    width, labels = int(bundle.model["feature_width"]), len(bundle.labels)
    work = Work(
        functools.partial(sleeping_engine, seconds, width, labels), BatchScorer(bundle, options),
        storage, SIZE, Limits(), 32, functools.partial(decode, views=options.views),
    )  # fmt: skip
    pool, say = RayPool(), Reporter(True).say
    workers = pool.count("workers", None, gpu=True)
    listing = collect(list_images(str(images), storage, Counter()))
    assert listing is not None
    with hold(Location.of(str(out)), storage, print) as lease:
        sizes = shard_sizes(listing.rows, workers.processes, 4096)
        run = create_run(Location.of(str(out)), lease, {}, listing, sizes)
        pool.run(Job("scoring", run, work), list(range(len(sizes))), workers, say, print)
        tables = [table for _, table in run.read_files(["predicted_at"])]
    at = np.concatenate([table["predicted_at"].to_numpy() for table in tables])
    when, count = np.unique(at.astype("datetime64[us]").astype(np.int64), return_counts=True)
    return [[float(a) / 1e6, int(b)] for a, b in zip(when, count, strict=True)]


def main() -> None:
    """Let both take turns, and print their images/s."""
    import ray

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", required=True, type=Path, help="folder with photographs")
    parser.add_argument("--model", required=True, help="a bundle with one view")
    parser.add_argument("--images", type=int, default=5390)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.002, help="for a batch of up to 256")
    arguments = parser.parse_args()
    ray.init("local", num_cpus=CORES, num_gpus=1, include_dashboard=False, log_to_driver=False)
    figures: dict[str, list[float]] = {"decode": [], "score": [], "share": []}
    with tempfile.TemporaryDirectory(prefix="monkeyray-accelerator-") as name:
        images = Path(name) / "images"
        collect_photos(arguments.photos, images, arguments.images, None)
        for round_ in range(arguments.rounds):
            found = spread(read_hash_decode, str(images))
            alone = steady(sorted(pair for each in found for pair in each))
            out = Path(name) / str(round_)
            scored = steady(score(images, arguments.model, arguments.seconds, out))
            limit = min(alone, TOGETHER / arguments.seconds)
            for key, value in zip(figures, (alone, scored, scored / limit), strict=True):
                figures[key].append(round(value, 3))
    for key, values in figures.items():
        print(f"{key}: {statistics.median(values):g}, of {json.dumps(values)}")


if __name__ == "__main__":
    main()
