"""The scoring job: a model bundle applied to a collection of images, predictions as Parquet."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from monkeyray.errors import InputError
from monkeyray.images.detections import read_detections
from monkeyray.model.bundle import load_bundle
from monkeyray.options import HIDDEN_NAME, takes_options, write_options
from monkeyray.runs.cluster import WorkerCount, check_relative
from monkeyray.runs.lease import Lease, hold
from monkeyray.runs.parts import Job
from monkeyray.runs.plan import Listing, shard_sizes
from monkeyray.runs.pools import Pool, open_pool
from monkeyray.runs.run import Run, clear, create_run, open_run
from monkeyray.runs.update import COLUMNS, Changes, Listed, new_rows
from monkeyray.scoring.collection import list_collection
from monkeyray.scoring.dry_run import estimate
from monkeyray.scoring.options import ScoreConfig
from monkeyray.scoring.summary import Estimate, Summary
from monkeyray.scoring.work import image_work, run_identity, run_pending, score_options
from monkeyray.storage.location import normalise
from monkeyray.storage.store import Storage


@takes_options(ScoreConfig)
def score(config: ScoreConfig) -> Summary | Estimate:
    """Score a collection, or resume an earlier call that was stopped.

    Raises a MonkeyRayError that says what to change.
    """
    start = time.monotonic()
    reporter = config.store.reporter()
    storage = config.store.storage()
    for option in ("images", "model", "predictions", "detections"):
        check_relative(option, getattr(config, option))
        if getattr(config, option) is not None:
            storage.check_reachable(normalise(getattr(config, option)))
    uri = normalise(config.predictions)
    bundle = load_bundle(config.model, storage, config.model_id, int8=config.precision == "int8")
    options = score_options(config, bundle)
    if note := bundle.unlike(config.box_padding if config.detections else None):
        reporter.say(note)
    storage.check_writable(uri)
    detections, sha256 = None, None
    if config.detections:
        detections, sha256 = read_detections(config.detections, storage)
    if config.dry_run:
        listing, _ = list_collection(config, storage, detections)
        with open_pool(config.store.ray_address, config.gpu, config.store.debug) as pool:
            crew = _crew(config, storage, uri, pool)
            work = image_work(config, bundle, options, storage)
            return estimate(uri, listing, work, pool, crew, reporter.say)
    with hold(uri, storage, reporter.say) as lease:
        identity = run_identity(config, bundle, options, sha256)
        found = None if config.overwrite else open_run(uri, storage, identity)
        # Before the pool is opened, which is not needed if there is nothing to score.
        listed = None
        if found is None or config.update:
            listed = list_collection(config, storage, detections)
        del detections  # may be a gigabyte
        with open_pool(config.store.ray_address, config.gpu, config.store.debug) as pool:
            crew = _crew(config, storage, uri, pool)
            run = _open(config, lease, uri, identity, found, listed, crew.workers)
            write_options(uri, config, storage, HIDDEN_NAME)
            options = replace(options, not_before=run.redo.since if run.redo else None)
            work = image_work(config, bundle, options, storage)
            scored, spent = run_pending(Job("scoring", run, lease, work), pool, crew, reporter)
        totals = run.finish(lease, count=("label", "decision"))
    return Summary(
        uri,
        totals["status"],
        totals["label"],
        totals["decision"],
        bundle.names,
        run.notes,
        scored,
        run.rows - scored,
        time.monotonic() - start,
        boxes=config.detections is not None,
        spent=spent,
    )


def _crew(config: ScoreConfig, storage: Storage, uri: str, pool: Pool) -> WorkerCount:
    crew = pool.crew("workers", config.workers, config.gpu)
    pool.check_shared(storage, {"images": normalise(config.images)}, {"predictions": uri})
    return crew


def _open(
    config: ScoreConfig,
    lease: Lease,
    uri: str,
    identity: dict[str, Any],
    run: Run | None,
    listed: tuple[Listing, dict[str, Any]] | None,
    workers: int,
) -> Run:
    """The run to resume, updated if asked for, or a new one."""
    if run is None:
        assert listed is not None
        listing, notes = listed
        if config.overwrite:
            clear(uri, lease)
        sizes = shard_sizes(listing.rows, workers, config.rows_per_file)
        return create_run(uri, lease, identity, listing, sizes, notes)
    if not config.update and not config.retry_failed:
        return run
    new, sizes, now = None, [], None
    seen: dict[str, Any] = dict(run.notes)
    if listed is not None:
        listing, seen = listed
        now = Listed.of(listing)
        new = listing.only(new_rows(run, listing))
        if new.rows and not new.schema.equals(run.plan.schema()):
            raise InputError(
                f"the columns of {config.images} have changed since {uri} was started: use another "
                "place or --overwrite"
            )
        sizes = shard_sizes(new.rows, workers, config.rows_per_file)
        seen["images that are new"] = new.rows
    changes = Changes(now, config.retry_failed)

    def notes_of_changes() -> dict[str, Any]:
        return seen | {
            "images that have changed": changes.changed,
            "images that are gone, their rows are kept": changes.vanished,
            "images that failed and are tried again": changes.retried,
        }

    return run.update(lease, changes, COLUMNS, new, sizes, notes_of_changes)
