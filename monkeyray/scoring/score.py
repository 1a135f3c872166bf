"""The scoring job: a model bundle applied to a collection of images, predictions as Parquet."""

from __future__ import annotations

import time

from monkeyray.images.detections import read_detections
from monkeyray.model.bundle import load_bundle
from monkeyray.options import takes_options
from monkeyray.options_file import HIDDEN_NAME, write_options
from monkeyray.runs.cluster import check_places
from monkeyray.runs.indexing import indexed_on_cluster
from monkeyray.runs.lease import hold
from monkeyray.runs.place import open_run
from monkeyray.runs.reader import root_of
from monkeyray.runs.workers.pools import open_pool, run_pending
from monkeyray.runs.workers.worker import Job
from monkeyray.scoring.allowed import open_allowed
from monkeyray.scoring.collection import list_collection
from monkeyray.scoring.dry_run import Estimate, estimate
from monkeyray.scoring.job import image_work, open_or_create, run_identity, score_options
from monkeyray.scoring.options import ScoreConfig
from monkeyray.scoring.summary import Summary
from monkeyray.storage.location import Location


@takes_options(ScoreConfig)
def score(config: ScoreConfig) -> Summary | Estimate:
    """Score a collection, or resume an earlier call that was stopped.

    Raises a MonkeyRayError that says what to change.
    """
    start = time.monotonic()
    reporter = config.store.reporter()
    storage = config.store.storage()
    check_places(config, storage, "images", "model", "predictions", "detections", "allowed")
    place = Location.parse(config.predictions)
    bundle = load_bundle(config.model, storage, config.model_id, int8=config.precision == "int8")
    allowed = open_allowed(config, storage, bundle, root_of(config.images), reporter.say)
    options = score_options(config, bundle, allowed)
    if note := bundle.unlike(config.box_padding if config.detections else None):
        reporter.say(note)
    storage.check_conditions(place)
    detections, sha256 = None, None
    if config.detections:
        detections, sha256 = read_detections(config.detections, storage)
    cluster = indexed_on_cluster(config.store, storage, reporter.say, config.workers, config.gpu)
    with cluster as storage:
        if config.dry_run:
            listing, _ = list_collection(config, storage, detections)
            with open_pool(config.store, config.gpu, reporter.say) as pool:
                workers = pool.count("workers", config.workers, config.gpu)
                work = image_work(config, bundle, options, storage)
                return estimate(place, listing, work, pool, workers, reporter.say)
        with hold(place, storage, reporter.say) as lease:
            identity = run_identity(config, bundle, options, sha256)
            found = None if config.overwrite else open_run(place, storage, identity)
            # Before the pool is opened, which is not needed if there is nothing to score.
            listed = None
            if found is None or config.update:
                listed = list_collection(config, storage, detections)
                if allowed and (warning := allowed.check(next(listed[0].tables()))):
                    reporter.say(warning)
            del detections  # may be a gigabyte
            with open_pool(config.store, config.gpu, reporter.say) as pool:
                workers = pool.count("workers", config.workers, config.gpu)
                run = open_or_create(
                    config, lease, place, identity, found, listed, workers.processes, reporter.say
                )
                write_options(place, config, storage, HIDDEN_NAME)
                work = image_work(config, bundle, options, storage)
                job = Job("scoring", run, work)
                scored, spent = run_pending(job, lease, pool, workers, reporter)
            totals = run.finish(lease)
    return Summary.of(run, totals, bundle.names, scored, time.monotonic() - start, spent)
