"""The scoring job: a model bundle over a collection of images, predictions to Parquet."""

from __future__ import annotations

import functools
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.bundle import Bundle, load_bundle
from monkeyray.cluster import (
    check_relative,
    check_shared,
    choose_workers,
    connected,
    quiet_data,
    wait_for_workers,
)
from monkeyray.config import ScoreConfig
from monkeyray.decode import Limits
from monkeyray.engine import Network
from monkeyray.errors import InputError
from monkeyray.images import drop_duplicate_uris, list_images
from monkeyray.pipeline import Job, run_parts
from monkeyray.predictions import SCHEMA_VERSION, ScoreOptions, Scorer
from monkeyray.progress import Reporter
from monkeyray.runs import Run, create_run, cut, open_run
from monkeyray.storage import Storage, join, normalise

_FETCH_THREADS = 16
_TRIAL_IMAGES = 64


@dataclass(frozen=True)
class Summary:
    """What a scoring did. `scored`: images of this call; `already`: images found finished."""

    uri: str
    statuses: Counter[str]
    labels: Counter[str]
    names: dict[str, str]
    notes: dict[str, Any]
    scored: int
    already: int
    seconds: float

    @property
    def images(self) -> int:
        """Rows in the predictions."""
        return self.statuses.total()

    def __str__(self) -> str:
        lines = [f"{self.images} images, one row each"]
        if self.already:
            lines[0] += f"; {self.already} were there, {self.scored} scored now"
        lines += [f"  {count:>9} {status}" for status, count in self.statuses.most_common()]
        lines += ["labels of the images that are ok"]
        for label, count in self.labels.most_common():
            name = self.names.get(label, label)
            lines.append(f"  {count:>9} {label}" + (f" ({name})" if name != label else ""))
        for note, count in self.notes.items():
            if count:
                lines.append(f"{count} {note}")
        if self.scored:
            lines.append(
                f"{self.scored / self.seconds:.1f} images/s over {self.seconds:.0f} s, "
                "start-up included"
            )
        return "\n".join([*lines, f"predictions in {self.uri}"])


@dataclass(frozen=True)
class Estimate:
    """What a dry run found. `rate`: images/s of all workers, None where too few were tried."""

    images: int
    tried: Counter[str]
    rate: float | None
    workers: int

    def __str__(self) -> str:
        tried = ", ".join(f"{count} {status}" for status, count in self.tried.most_common())
        lines = [f"{self.images} images; {self.tried.total()} tried: {tried}"]
        if self.rate:
            seconds = self.images / self.rate
            time = (
                f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.1f} minutes"
            )
            lines.append(
                f"{self.rate:.1f} images/s with {self.workers} workers: about {time} and start-up"
            )
        return "\n".join([*lines, "dry run: nothing was kept"])


def score(config: ScoreConfig) -> Summary | Estimate:
    """Score a collection, or go on where an earlier call was stopped.

    Raises a MonkeyRayError that says what to change.
    """
    start = time.monotonic()
    reporter = Reporter(config.store.quiet)
    storage = config.store.storage()
    for option in ("images", "model", "predictions"):
        check_relative(option, getattr(config, option))
    uri = normalise(config.predictions)
    bundle = load_bundle(config.model, storage, config.model_id)
    options = _options(config, bundle)
    identity = _identity(config, bundle, options)
    if config.overwrite and not config.dry_run:
        storage.delete_tree(uri)
    run = None if config.dry_run else open_run(uri, storage, identity)
    plan, notes = (None, {}) if run else _plan(config, storage)
    storage.check_writable(uri)

    with connected(config.store.ray_address, config.store.debug):
        quiet_data()
        workers = choose_workers("workers", config.workers, config.gpu)
        check_shared(storage, {"images": normalise(config.images)}, {"predictions": uri})
        if config.dry_run:
            assert plan is not None
            return _try(config, bundle, options, plan, workers)
        if run is None:
            assert plan is not None
            sizes = cut(plan.num_rows, workers, config.rows_per_file)
            run = create_run(uri, storage, identity, plan, sizes, notes)
        scored = _score_parts(config, bundle, options, run, workers, reporter)
    totals = run.finish(count="label")
    return Summary(
        uri,
        totals["status"],
        totals["label"],
        bundle.names,
        run.notes,
        scored,
        run.rows - scored,
        time.monotonic() - start,
    )


def _score_parts(
    config: ScoreConfig,
    bundle: Bundle,
    options: ScoreOptions,
    run: Run,
    workers: int,
    reporter: Reporter,
) -> int:
    """Make the files that are not there; returns how many images that took."""
    pending = run.pending()
    todo = sum(run.sizes[part] for part in pending)
    if not pending:
        return 0
    if todo < run.rows:
        reporter.say(f"going on: {run.rows - todo} of {run.rows} images are done")
    run.storage.delete(join(run.uri, "_SUCCESS"))
    wait_for_workers(min(workers, len(pending)), config.gpu)
    job = _job(config, bundle, options, run)
    with reporter.bar("scoring") as bar:
        run_parts(
            job, pending, workers=workers, gpu=config.gpu, progress=lambda rows: bar(todo, rows)
        )
    return todo


def _job(config: ScoreConfig, bundle: Bundle, options: ScoreOptions, run: Run) -> Job:
    network = Network(
        bundle.model["backbone"], bundle.base, bundle.top, bundle.head, len(bundle.labels)
    )
    make = functools.partial(Scorer, network, bundle.labels, bundle.model_id, options)
    return Job(run, make, options.limits, config.batch_size, _FETCH_THREADS)


def _options(config: ScoreConfig, bundle: Bundle) -> ScoreOptions:
    top_k = len(bundle.labels) if config.top_k == "all" else int(config.top_k)
    return ScoreOptions(
        top_k=min(top_k, len(bundle.labels)),
        threshold=config.threshold,
        embeddings=config.embeddings,
        limits=Limits(config.max_bytes, config.max_pixels),
    )


def _identity(config: ScoreConfig, bundle: Bundle, options: ScoreOptions) -> dict[str, Any]:
    """All that decides the rows: what a run must have in common with one it goes on with."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model_id": bundle.model_id,
        "engine": "tensorflow-float32",
        "images": normalise(config.images),
        "limit": config.limit,
        "top_k": options.top_k,
        "threshold": options.threshold,
        "embeddings": options.embeddings,
        "max_bytes": options.limits.max_bytes,
        "max_pixels": options.limits.max_pixels,
    }


def _plan(config: ScoreConfig, storage: Storage) -> tuple[pa.Table, dict[str, Any]]:
    """The images to score, each URI once, and what was seen on the way."""
    skipped: Counter[str] = Counter()
    chunks = []
    rows = 0
    for chunk in list_images(config.images, storage, skipped):
        chunks.append(chunk)
        rows += chunk.num_rows
        if config.limit is not None and rows >= config.limit:
            break
    if not rows:
        raise InputError(
            f"no images in {config.images}: give a folder or prefix with images, or a manifest "
            "that ends in .csv or .parquet"
        )
    listed = pa.concat_tables(chunks, promote_options="permissive")
    plan = drop_duplicate_uris(listed)
    notes = {
        "files skipped, side-cars by their name": skipped["side-car"],
        "files skipped, hidden": skipped["hidden"],
        "rows with a URI that was listed before": listed.num_rows - plan.num_rows,
    }
    return (plan if config.limit is None else plan.slice(0, config.limit)), notes


def _try(
    config: ScoreConfig, bundle: Bundle, options: ScoreOptions, plan: pa.Table, workers: int
) -> Estimate:
    """Score a sample into a place that is thrown away, and estimate the time for all."""
    step = max(1, plan.num_rows // _TRIAL_IMAGES)
    sample = plan.take(pa.array(range(0, plan.num_rows, step)[:_TRIAL_IMAGES], pa.int64()))
    storage = config.store.storage()
    # Beside the predictions, so that the trial writes where the job will.
    place = join(normalise(config.predictions), f".trial-{time.time_ns()}")
    half = -(-sample.num_rows // 2)
    sizes = [half, sample.num_rows - half]
    try:
        run = create_run(place, storage, {}, sample, sizes)
        job = _job(config, bundle, options, run)
        run_parts(job, [0, 1], workers=1, gpu=config.gpu, progress=lambda rows: None)
        tables = list(run.read_parts(["status", "predicted_at"]))
    finally:
        storage.delete_tree(place)
    # The first half warms the network up; the second half's last row comes after the first's.
    ends = [pc.max(table["predicted_at"]).as_py() for table in tables if table.num_rows]
    seconds = (ends[-1] - ends[0]).total_seconds() if len(ends) > 1 else None
    tried = Counter(status for table in tables for status in table["status"].to_pylist())
    rate = sizes[1] / seconds * workers if seconds else None
    return Estimate(plan.num_rows, tried, rate, workers)
