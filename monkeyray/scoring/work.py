"""A scoring's identity, and the work of making its missing rows."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

from monkeyray.console import Reporter
from monkeyray.images.decode import Limits, decode
from monkeyray.model.bundle import Bundle, int8_sha256
from monkeyray.model.engines import choose_engine
from monkeyray.runs.decode_process import Work
from monkeyray.runs.lease import Lease
from monkeyray.runs.pools import Pool
from monkeyray.runs.worker import Job
from monkeyray.runs.worker_count import WorkerCount
from monkeyray.scoring.options import ScoreConfig, parse_top_k
from monkeyray.scoring.rows import ScoreOptions, Scorer
from monkeyray.scoring.schema import SCHEMA_VERSION
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage


def score_options(config: ScoreConfig, bundle: Bundle) -> ScoreOptions:
    """The options with the bundle's defaults filled in."""
    return ScoreOptions(
        views=bundle.choose_views(config.views),
        top_k=parse_top_k(config.top_k, len(bundle.labels)),
        threshold=config.threshold,
        embeddings=config.embeddings,
        engine=choose_engine(config.engine, config.precision, config.gpu),
        limits=Limits(
            config.max_bytes, config.max_pixels, config.decode_seconds, config.max_refused
        ),
    )


def run_identity(
    config: ScoreConfig, bundle: Bundle, options: ScoreOptions, detections_sha256: str | None
) -> dict[str, Any]:
    """Everything that decides the rows; a run is resumed only by a call with the same identity."""
    boxes = detections_sha256 and {
        "sha256": detections_sha256,
        "threshold": config.detection_threshold,
        "padding": config.box_padding,
    }
    return {
        "detections": boxes,
        "schema_version": SCHEMA_VERSION,
        "model_id": bundle.model_id,
        "backbone_weights": bundle.model["weights"]["backbone"],
        "decode_version": bundle.model["preprocessing"]["decode_version"],
        "views": list(options.views),
        "engine": str(options.engine),
        **({"int8": int8_sha256(bundle)} if config.precision == "int8" else {}),
        "images": str(Location.parse(config.images)),
        "limit": config.limit,
        "include": list(config.include),
        "exclude": list(config.exclude),
        "top_k": options.top_k,
        "threshold": options.threshold,
        "embeddings": options.embeddings,
        "max_bytes": options.limits.max_bytes,
        "max_pixels": options.limits.max_pixels,
    }


def image_work(
    config: ScoreConfig, bundle: Bundle, options: ScoreOptions, storage: Storage
) -> Work:
    """The work of a worker that decodes images and scores them."""
    views = options.views
    return Work(
        make_mapper=functools.partial(Scorer, bundle, options),
        storage=storage,
        size=bundle.network(views).size,
        limits=options.limits,
        batch_size=max(1, config.batch_size // len(views)),
        decode=functools.partial(decode, views=views, padding=config.box_padding),
    )


def run_pending(
    job: Job, lease: Lease, pool: Pool, workers: WorkerCount, reporter: Reporter
) -> tuple[int, Counter[str]]:
    """Make the rows of a job's run that are missing.

    Returns how many images that took, and the workers' nanoseconds by worker.SPENT.
    """
    run = job.run
    pending = run.pending()
    todo = sum(pending.values())
    if not pending:
        return 0, Counter()
    if todo < run.rows:
        reporter.say(f"resuming: {run.rows - todo} of {run.rows} images are done")
    run.reopen(lease)
    with reporter.bar(job.task) as bar:
        spent = pool.run(
            job, list(pending), workers, reporter.say, lambda rows: bar(todo, rows), images=todo
        )
    return todo, spent
