"""The rescoring job: predictions with embeddings, scored again with another head.

Whatever head, temperature and thresholds decide follows from the backbone's features, which
`score --embeddings` keeps, so no image is opened. The result is a run like that of scoring, with
the same shards. Workers read and write them, so features never pass through the driver.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from monkeyray.errors import InputError
from monkeyray.images.decode import Limits
from monkeyray.model.bundle import Bundle, load_bundle
from monkeyray.options_file import HIDDEN_NAME, write_options
from monkeyray.runs.cluster import check_places
from monkeyray.runs.lease import hold
from monkeyray.runs.place import clear, create_run, open_run
from monkeyray.runs.reader import open_predictions
from monkeyray.runs.run import Run
from monkeyray.runs.workers.pools import open_pool, run_pending
from monkeyray.runs.workers.worker import Job
from monkeyray.scoring.allowed import open_allowed
from monkeyray.scoring.job import allowed_identity
from monkeyray.scoring.options import RescoreConfig, parse_top_k
from monkeyray.scoring.rows import PostProcessor, Rescorer, ScoreOptions
from monkeyray.scoring.schema import check_version
from monkeyray.scoring.summary import Summary
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage


def rescore(config: RescoreConfig) -> Summary:
    """Score predictions again, or resume an earlier call that was stopped.

    Raises a MonkeyRayError that says what to change.
    """
    start = time.monotonic()
    reporter = config.store.reporter()
    storage = config.store.storage()
    check_places(config, storage, "predictions", "model", "output", "allowed")
    place = Location.parse(config.output)
    bundle = load_bundle(config.model, storage, config.model_id)
    predictions = open_predictions(config.predictions, storage)
    old = predictions.run
    allowed = open_allowed(config, storage, bundle, predictions.root, reporter.say)
    options = replace(_options(config, old, bundle), allowed=allowed)
    if allowed and (warning := allowed.check(old.plan.read(0))):
        reporter.say(warning)
    identity = _identity(config, old, bundle, options)
    rescorer = Rescorer(predictions, PostProcessor(bundle, options), bundle.head_weights)
    storage.check_conditions(place)
    with hold(place, storage, reporter.say) as lease:
        run = None if config.overwrite else open_run(place, storage, identity)
        if run is None:
            if config.overwrite:
                clear(place, lease)
            kept = [name for name in ("uri", "detection") if name in old.plan.schema().names]
            plans = (plan.select(kept) for _, plan in old.plan.read_all())
            run = create_run(place, lease, identity, plans, old.plan.sizes)
        write_options(place, config, storage, HIDDEN_NAME)
        scored = 0
        if run.pending():
            with open_pool(config.store, False, reporter.say) as pool:
                workers = pool.count("workers", config.workers, False)
                job = Job("rescoring", run, rescorer)
                scored, _ = run_pending(job, lease, pool, workers, reporter)
        _check_unchanged(old, storage)
        totals = run.finish(lease)
    return Summary.of(run, totals, bundle.names, scored, time.monotonic() - start)


def _options(config: RescoreConfig, old: Run, bundle: Bundle) -> ScoreOptions:
    """The new rows' options. Raises InputError unless the features are of the model's backbone."""
    was, model = old.identity, f"the model {bundle.model_id[:12]} in {config.model}"
    check_version(old)
    if not was.get("embeddings"):
        raise InputError(
            f"the predictions in {old.place} have no embeddings: score the images again with "
            "`monkeyray score --embeddings`"
        )
    its = bundle.embedding_identity()
    if {key: was.get(key) for key in its} != its:
        raise InputError(
            f"the embeddings in {old.place} are from a different backbone than that of {model}: "
            "train "
            "the new head on the same --backbone and --weights, without --fine-tune, or score the "
            "images with it"
        )
    views = tuple(was["views"])
    count = len(views)
    if views != bundle.views[:count] or str(count) not in bundle.model["calibration"]:
        raise InputError(
            f"the embeddings in {old.place} are of {_views(views)} of each image, and {model} is "
            f"for {_views(bundle.views)}: train the new head with --crop "
            f"{views[0]} --views {count}, or score the images with it"
        )
    top_k = parse_top_k(config.top_k, len(bundle.labels))
    return ScoreOptions(views, top_k, config.threshold, embeddings=True, limits=Limits())


def _views(views: tuple[str, ...]) -> str:
    return f"the view {views[0]}" if len(views) == 1 else f"the views {', '.join(views)}"


def _identity(
    config: RescoreConfig, old: Run, bundle: Bundle, options: ScoreOptions
) -> dict[str, Any]:
    """The old run's identity with what changes, and its state: an update gives it another id."""
    kept = {name: value for name, value in old.identity.items() if name != "allowed"}
    return kept | {
        "model_id": bundle.model_id,
        "top_k": options.top_k,
        "threshold": options.threshold,
        "rescored": {"predictions": str(old.place), "run_id": old.run_id},
        **allowed_identity(config, options),
    }


def _check_unchanged(old: Run, storage: Storage) -> None:
    now = open_predictions(old.place, storage).run
    if now.run_id != old.run_id:
        raise InputError(
            f"the predictions in {old.place} were updated meanwhile: rescore them again with "
            "--overwrite"
        )
