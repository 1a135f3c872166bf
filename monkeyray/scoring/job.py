"""The parts of a scoring job: its identity, its run (new, resumed or updated), and its workers'
work."""

from __future__ import annotations

import functools
from typing import Any

from monkeyray.console import Say
from monkeyray.errors import InputError
from monkeyray.images.decode import Limits, decode
from monkeyray.model.bundle import Bundle, int8_sha256
from monkeyray.model.engines.choice import choose_engine
from monkeyray.options import flag
from monkeyray.runs.lease import Lease
from monkeyray.runs.place import clear, create_run
from monkeyray.runs.plan import Listing, shard_sizes
from monkeyray.runs.run import Run
from monkeyray.runs.update import Changes, Listed, new_rows, update_run
from monkeyray.runs.workers.decode_process import Work
from monkeyray.scoring.allowed import Allowed
from monkeyray.scoring.options import AllowedConfig, ScoreConfig, parse_top_k
from monkeyray.scoring.rows import BatchScorer, ScoreOptions
from monkeyray.scoring.schema import SCHEMA_VERSION
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage


def score_options(
    config: ScoreConfig, bundle: Bundle, allowed: Allowed | None = None
) -> ScoreOptions:
    """The options with the bundle's defaults filled in."""
    return ScoreOptions(
        views=bundle.choose_views(config.views),
        top_k=parse_top_k(config.top_k, len(bundle.labels)),
        threshold=config.threshold,
        embeddings=config.embeddings,
        engine=choose_engine(config.engine, config.precision, config.gpu, bundle.onnx is not None),
        limits=Limits(
            config.max_bytes, config.max_pixels, config.decode_seconds, config.max_refused
        ),
        allowed=allowed,
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
        **bundle.embedding_identity(),
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
        **allowed_identity(config, options),
    }


def allowed_identity(config: AllowedConfig, options: ScoreOptions) -> dict[str, Any]:
    """The part of --allowed in a run's identity."""
    if options.allowed is None:
        return {}
    table = f"table {options.allowed.sha256[:16]}"
    pattern = config.site_pattern
    return {"allowed": table if pattern is None else f"{table} by {pattern}"}


def open_or_create(
    config: ScoreConfig,
    lease: Lease,
    place: Location,
    identity: dict[str, Any],
    run: Run | None,
    listed: tuple[Listing, dict[str, Any]] | None,
    workers: int,
    say: Say,
) -> Run:
    """The run to resume, updated if asked for, or a new one. `say` is called if there is nothing to
    update."""
    if run is None:
        assert listed is not None
        listing, notes = listed
        if config.overwrite:
            clear(place, lease)
        sizes = shard_sizes(listing.rows, workers, config.rows_per_file)
        return create_run(place, lease, identity, listing, sizes, notes)
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
                f"the columns of {config.images} have changed since {place} was started: use "
                "another place or --overwrite"
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

    after = update_run(run, lease, changes, new, sizes, notes_of_changes)
    if after.run_id == run.run_id:
        options = [
            f"--{flag(name)}" for name in ("update", "retry_failed") if getattr(config, name)
        ]
        say(f"{' and '.join(options)} found no image to score; existing rows are unchanged")
    return after


def image_work(
    config: ScoreConfig, bundle: Bundle, options: ScoreOptions, storage: Storage
) -> Work:
    """The work of a worker that decodes images and scores them."""
    views = options.views
    network = bundle.network(views)
    return Work(
        make_engine=functools.partial(options.engine.build, network),
        mapper=BatchScorer(bundle, options),
        storage=storage,
        size=network.size,
        views=len(views),
        limits=options.limits,
        batch_size=max(1, config.batch_size // len(views)),
        decode=functools.partial(decode, views=views, padding=config.box_padding),
    )
