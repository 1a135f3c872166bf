"""How scoring scales: memory and rate by the number of images, the driver's cost, a large plan.

    python -m tests.benchmarks.scale images --photos FOLDER --counts 1000 10000 100000
    python -m tests.benchmarks.scale images --photos FOLDER --counts 5000 50000 --model BUNDLE
    python -m tests.benchmarks.scale driver --shards 2000
    python -m tests.benchmarks.scale plan --rows 10000000

Without `--model`, a stub answers in place of the network, so that everything else is measured: the
plan, the workers and their children, the decoder, the files. With `--ray`, a Ray of its own does
the work instead of this machine's workers. Memory is the proportional set size (PSS) of the driver
and all processes below it, in which shared pages count once. `driver` hands out, publishes and
counts shards whose rows need no work.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from monkeyray.arrays import Array, Flags, Floats
from monkeyray.console import Reporter
from monkeyray.images.decode import Limits
from monkeyray.images.listing import list_images
from monkeyray.model.bundle import load_bundle
from monkeyray.model.engines.choice import Engine, choose_engine
from monkeyray.options import StoreConfig
from monkeyray.runs.lease import hold
from monkeyray.runs.place import create_run, open_run
from monkeyray.runs.plan import collect, shard_sizes
from monkeyray.runs.workers.decode_process import Work
from monkeyray.runs.workers.pools import open_pool
from monkeyray.runs.workers.worker import Job, every_second
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.scoring.rows import BatchScorer, PostProcessor, ScoreOptions
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

LABELS = [f"label {i}" for i in range(10)]


class StubPostProcessor(PostProcessor):
    """Uses logits as scores."""

    def __init__(self, options: ScoreOptions) -> None:
        self.model_id = "0" * 64
        self.options = options
        self._labels = np.array(LABELS, dtype=object)
        self._overflows = 0

    def predict(
        self, features: Array, logits: Array, mask: Flags | None = None
    ) -> dict[str, list[Any]]:
        first = logits.argmax(axis=1)
        best = logits.max(axis=1).tolist()
        labels = self._labels[first].tolist()
        return {
            "label": labels,
            "score": best,
            "decision": [None] * len(first),
            "ood_score": [0.0] * len(first),
            "top_k": [[{"label": a, "score": b}] for a, b in zip(labels, best, strict=True)],
        }


class StubScorer(BatchScorer):
    """Rows of predictions without a model."""

    def __init__(self, options: ScoreOptions) -> None:
        self._postprocess = StubPostProcessor(options)


def stub_engine(pixels: Array) -> tuple[Floats, Floats]:
    """Scores that depend on the mean colours."""
    mean = pixels.reshape(len(pixels), -1, 3).mean(axis=(1, 2), dtype=np.float32)
    scores = np.ones((len(pixels), len(LABELS)), np.float32) * 0.05
    scores[np.arange(len(pixels)), mean.astype(int) % len(LABELS)] = 0.55
    return np.zeros((len(pixels), 1, 8), np.float32), scores


def pss_of_tree(root: int) -> dict[str, float]:
    """PSS in MiB of a process and all below it, by kind of process."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    total: dict[str, float] = {}
    for pid in parents:
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above != root:
            continue
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            kind = "driver" if pid == root else "Ray"
            for word in ("monkeyray.runs.workers.decode_process", "MapWorker"):
                if word.encode() in line:
                    kind = word
            for entry in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if entry.startswith("Pss:"):
                    total[kind] = total.get(kind, 0.0) + int(entry.split()[1]) / 1024
    return total


@contextlib.contextmanager
def watch_memory(samples: list[dict[str, float]]) -> Any:
    """Sample the memory of this process and its children every second, and at the end, so that a
    short run has a sample."""

    def sample() -> None:
        samples.append(pss_of_tree(os.getpid()))

    with every_second(sample, Reporter(True).say):
        yield
        sample()


def make_stub() -> Engine:
    """The engine without a network."""
    return stub_engine


def stub_work(storage: Storage) -> Work:
    """Work without a network."""
    options = ScoreOptions(("middle",), 5, None, False, Limits())
    return Work(make_stub, StubScorer(options), storage, 224, options.limits, 32)


def real_work(model: str, storage: Storage) -> Work:
    """Work with the network of a bundle."""
    bundle = load_bundle(model, storage)
    views = bundle.choose_views(None)
    engine = choose_engine("auto", "float32", False)
    options = ScoreOptions(views, 5, None, False, engine=engine, limits=Limits())
    network = bundle.network(views)
    make_engine, scorer = functools.partial(engine.build, network), BatchScorer(bundle, options)
    return Work(make_engine, scorer, storage, network.size, options.limits, 32)


def score_images(
    photos: Path, count: int, workers: int, model: str | None, ray: bool
) -> dict[str, Any]:
    """Score `count` links to small photographs."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "small").mkdir()
        small = []
        for number, path in enumerate(sorted(photos.glob("*/*.jpg"))[:200]):
            small.append(root / "small" / f"{number}.jpg")
            with Image.open(path) as image:
                image.thumbnail((256, 256))
                image.convert("RGB").save(small[-1])
        for number in range(count):
            link = root / "images" / f"{number // 1000:04d}" / f"{number:07d}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(small[number % len(small)])
        storage = Storage()
        work = stub_work(storage) if model is None else real_work(model, storage)
        samples: list[dict[str, float]] = []
        ticks: list[tuple[float, int]] = []
        with (
            open_pool(
                StoreConfig(ray_address="local" if ray else None), False, Reporter(True).say
            ) as pool,
            watch_memory(samples),
            hold(Location.of(str(root / "out")), storage, print) as lease,
        ):
            start = time.monotonic()
            listing = collect(list_images(str(root / "images"), storage, Counter()))
            assert listing is not None
            sizes = shard_sizes(listing.rows, workers, 4096)
            run = create_run(Location.of(str(root / "out")), lease, {}, listing, sizes)
            planned = time.monotonic()
            pool.run(
                Job("scoring", run, work), list(range(len(sizes))), WorkerCount(workers),
                Reporter(True).say,
                lambda rows: ticks.append((time.monotonic(), sum(rows.values()))),
            )  # fmt: skip
            done = time.monotonic()
            assert run.finish(lease)["status"] == {"ok": count}
            end = time.monotonic()
    # The steady part: from a tenth to nine tenths of the rows.
    steady = [(t, rows) for t, rows in ticks if 0.1 * count <= rows <= 0.9 * count]
    (began, few), (ended, many) = (steady or ticks)[0], (steady or ticks)[-1]
    # A second apart: too few images have no steady part.
    rate = round((many - few) / (ended - began), 1) if ended > began else None
    late = samples[len(samples) // 2 :]
    kinds = sorted({kind for sample in late for kind in sample})
    return {
        "images": count,
        "plan_seconds": round(planned - start, 2),
        "score_seconds": round(done - planned, 2),
        "finish_seconds": round(end - done, 2),
        "steady_images_per_second": rate,
        "peak_pss_mib": round(max(sum(sample.values()) for sample in samples), 1),
        "median_pss_mib": {
            kind: round(float(np.median([sample.get(kind, 0) for sample in late])), 1)
            for kind in kinds
        },
    }


def no_images(shard: int, plan: pa.Table) -> Iterator[pa.Table]:
    """Rows of predictions without any work."""
    count = plan.num_rows
    columns = {
        "uri": plan["uri"],
        "status": pa.repeat(pa.scalar("ok"), count),
        "label": pa.repeat(pa.scalar("a"), count),
        "score": pa.array(np.linspace(0, 1, count, dtype=np.float32)),
    }
    yield pa.table(columns)


def drive(shards: int, rows_per_shard: int, workers: int) -> dict[str, Any]:
    """Hand out many shards to workers that finish them at once."""
    count = shards * rows_per_shard
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        numbers = pa.array(np.arange(count)).cast(pa.string())
        uris = pc.binary_join_element_wise("s3://camera-traps/IMG", numbers, "_")
        pq.write_table(pa.table({"uri": uris}), root / "manifest.parquet")
        storage = Storage()
        out = str(root / "out")
        with (
            open_pool(StoreConfig(ray_address="local"), False, Reporter(True).say) as pool,
            hold(Location.of(out), storage, print) as lease,
        ):
            start = time.monotonic()
            listing = collect(list_images(str(root / "manifest.parquet"), storage, Counter()))
            assert listing is not None
            run = create_run(Location.of(out), lease, {}, listing, [rows_per_shard] * shards)
            planned, cpu = time.monotonic(), time.process_time()
            pool.run(
                Job("rescoring", run, no_images), list(range(shards)), WorkerCount(workers),
                Reporter(True).say,
                lambda rows: None,
            )  # fmt: skip
            done, driver = time.monotonic(), time.process_time() - cpu
            run.finish(lease)
            end = time.monotonic()
    return {
        "shards": shards,
        "rows": count,
        "plan_seconds": round(planned - start, 2),
        "hand_out_and_write_seconds": round(done - planned, 2),
        "shards_per_second": round(shards / (done - planned), 1),
        "driver_cpu_ms_per_shard": round(1000 * driver / shards, 2),
        "finish_seconds": round(end - done, 2),
    }


def plan_many(rows: int, place: str | None) -> dict[str, Any]:
    """Plan a manifest of many rows, and find what remains when half is done."""
    with tempfile.TemporaryDirectory() as name:
        manifest = Path(name) / "manifest.parquet"
        with pq.ParquetWriter(manifest, pa.schema([("uri", pa.string())])) as writer:
            for first in range(0, rows, 1_000_000):
                numbers = pa.array(np.arange(first, min(first + 1_000_000, rows))).cast(pa.string())
                uris = pc.binary_join_element_wise(
                    "s3://camera-traps/season-3/site-0042/camera-07/IMG", numbers, "_"
                )
                writer.write_table(pa.table({"uri": uris}))
        storage = Storage()
        out = place or str(Path(name) / "out")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.monotonic()
        listing = collect(list_images(str(manifest), storage, Counter()))
        assert listing is not None
        sizes = shard_sizes(listing.rows, 64, 4096)
        with hold(Location.of(out), storage, print) as lease:
            run = create_run(Location.of(out), lease, {"a": 1}, listing, sizes)
        planned = time.monotonic()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for shard in range(0, len(sizes), 2):
            storage.write(run.file_uri(shard), b"stands for a finished file")
        began = time.monotonic()
        again = open_run(Location.of(out), storage, {"a": 1})
        assert again is not None
        pending = again.pending()
        found = time.monotonic()
        assert sum(pending.values()) == sum(sizes[1::2])
    return {
        "rows": rows,
        "shards": len(sizes),
        "plan_seconds": round(planned - start, 1),
        "peak_rss_mib": round(peak / 1024),
        "rss_before_mib": round(before / 1024),
        "find_what_is_left_seconds": round(found - began, 2),
    }


def main() -> None:
    """Run one of the benchmarks and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    which = parser.add_subparsers(required=True, dest="which")
    images = which.add_parser("images")
    images.add_argument("--photos", type=Path, required=True)
    images.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    images.add_argument("--workers", type=int, default=os.cpu_count())
    images.add_argument("--model", help="a bundle, for its network; default: none")
    images.add_argument("--ray", action="store_true", help="on a Ray of its own")
    driver = which.add_parser("driver")
    driver.add_argument("--shards", type=int, default=2000)
    driver.add_argument("--rows-per-shard", type=int, default=4096)
    driver.add_argument("--workers", type=int, default=os.cpu_count())
    plan = which.add_parser("plan")
    plan.add_argument("--rows", type=int, default=10_000_000)
    plan.add_argument("--place", help="where the plan is written; default: a temporary folder")
    given = parser.parse_args()
    if given.which == "plan":
        print(json.dumps(plan_many(given.rows, given.place), indent=1))
        return
    if given.which == "driver":
        print(json.dumps(drive(given.shards, given.rows_per_shard, given.workers), indent=1))
        return
    for count in given.counts:
        found = score_images(given.photos, count, given.workers, given.model, given.ray)
        print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    # Under its own name, so that the workers find there what is pickled here.
    from tests.benchmarks import scale

    scale.main()
