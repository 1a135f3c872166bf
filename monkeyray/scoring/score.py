"""The scoring job: a model bundle over a collection of images, predictions to Parquet."""

from __future__ import annotations

import functools
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from monkeyray.console import Reporter
from monkeyray.errors import InputError
from monkeyray.images.decode import Limits, decode
from monkeyray.images.detections import parse_detections, read_detections
from monkeyray.images.listing import list_images
from monkeyray.model.bundle import Bundle, int8_sha256, load_bundle
from monkeyray.model.engines import choose_engine
from monkeyray.options import HIDDEN_NAME, takes_options, write_options
from monkeyray.runs.box_rows import count_unused, make_rows, match
from monkeyray.runs.cluster import WorkerCount, check_relative
from monkeyray.runs.decode_process import Work
from monkeyray.runs.lease import Lease, hold
from monkeyray.runs.parts import SPENT, Job
from monkeyray.runs.plan import Listing, collect, shard_sizes
from monkeyray.runs.pools import Pool, open_pool
from monkeyray.runs.run import Run, clear, create_run, open_run
from monkeyray.runs.update import COLUMNS, Changes, Listed, new_rows
from monkeyray.scoring.options import ScoreConfig, parse_top_k
from monkeyray.scoring.rows import SCHEMA_VERSION, ScoreOptions, Scorer, check_columns
from monkeyray.storage.location import join, normalise
from monkeyray.storage.store import Storage

_TRIAL_IMAGES = 64


@dataclass(frozen=True)
class Summary:
    """What a scoring did. `scored`: images of this call; `already`: images found finished; `boxes`:
    whether these are boxes, by detections; `spent`: the workers' nanoseconds, by parts.SPENT."""

    uri: str
    statuses: Counter[str]
    labels: Counter[str]
    decisions: Counter[str]
    names: dict[str, str]
    notes: dict[str, Any]
    scored: int
    already: int
    seconds: float
    boxes: bool = False
    spent: Counter[str] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        """Rows in the predictions."""
        return self.statuses.total()

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `predictions`, where they are; `images`, the rows in them (where
        `boxes` is true, one a box or an image without one), of which `scored_now` were made by
        this call and `already_there` before; rows by `statuses`, `labels` and `decisions`;
        `seconds` and `images_per_second`, with start-up, null where none was scored;
        `worker_seconds`, what those went into, of all workers: fetch, decode, compute, write;
        `notes`, counts by sentences for people."""
        return {
            "predictions": self.uri,
            "images": self.images,
            "boxes": self.boxes,
            "scored_now": self.scored,
            "already_there": self.already,
            "statuses": dict(self.statuses),
            "labels": dict(self.labels),
            "decisions": dict(self.decisions),
            "seconds": self.seconds,
            "images_per_second": self.scored / self.seconds if self.scored else None,
            "worker_seconds": {name: self.spent[name] / 1e9 for name in SPENT},
            "notes": self.notes,
        }

    def __str__(self) -> str:
        lines = [f"{self.images} images, one row each"]
        if self.boxes:
            lines = [f"{self.images} rows, one a box or an image without one"]
        if self.already:
            lines[0] += f"; {self.already} were there, {self.scored} scored now"
        lines += [f"  {count:>9} {status}" for status, count in self.statuses.most_common()]
        lines += [f"labels of the {'boxes' if self.boxes else 'images'} that are ok"]
        for label, count in self.labels.most_common():
            name = self.names.get(label, label)
            lines.append(f"  {count:>9} {label}" + (f" ({name})" if name != label else ""))
        if self.decisions:
            decided = (f"{count} {what}" for what, count in self.decisions.most_common())
            lines.append(", ".join(decided))
        for note, count in self.notes.items():
            if count:
                lines.append(f"{count} {note}")
        if self.scored:
            lines.append(
                f"{self.scored / self.seconds:.1f} images/s over {self.seconds:.0f} s, "
                "start-up included"
            )
        if self.spent.total():
            shares = {name: self.spent[name] / self.spent.total() for name in SPENT}
            lines.append(
                "the workers' time: {fetch:.0%} waiting for images, {decode:.0%} decoding, "
                "{compute:.0%} in the network, {write:.0%} writing".format(**shares)
            )
        return "\n".join([*lines, f"predictions in {self.uri}"])


@dataclass(frozen=True)
class Estimate:
    """What a dry run found. `rate`: images/s of all workers, None where too few were tried."""

    images: int
    tried: Counter[str]
    rate: float | None
    workers: int

    def to_json(self) -> dict[str, Any]:
        """For --summary-json: `dry_run`, true; `images` that there are; images `tried` by status;
        `workers` and the `images_per_second` of all of them, null where too few were tried."""
        return {
            "dry_run": True,
            "images": self.images,
            "tried": dict(self.tried),
            "workers": self.workers,
            "images_per_second": self.rate,
        }

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


@takes_options(ScoreConfig)
def score(config: ScoreConfig) -> Summary | Estimate:
    """Score a collection, or go on where an earlier call was stopped.

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
    options = _options(config, bundle)
    if note := bundle.unlike(config.box_padding if config.detections else None):
        reporter.say(note)
    storage.check_writable(uri)
    detections = read_detections(config.detections, storage) if config.detections else None
    if config.dry_run:
        listing, _ = _list(config, storage, detections)
        with open_pool(config.store.ray_address, config.gpu, config.store.debug) as pool:
            crew = _crew(config, storage, uri, pool)
            return _try(config, bundle, options, listing, pool, crew)
    with hold(uri, storage, reporter.say) as lease:
        identity = _identity(config, bundle, options, detections)
        found = None if config.overwrite else open_run(uri, storage, identity)
        # Before a cluster is asked, in case there is nothing to score.
        listed = None
        if found is None or config.update:
            listed = _list(config, storage, detections)
        del detections  # it may be a gigabyte
        with open_pool(config.store.ray_address, config.gpu, config.store.debug) as pool:
            crew = _crew(config, storage, uri, pool)
            run = _open(config, lease, uri, identity, found, listed, crew.workers)
            write_options(uri, config, storage, HIDDEN_NAME)
            options = replace(options, not_before=run.redo.since if run.redo else None)
            scored, spent = _score_parts(config, bundle, options, run, lease, pool, crew, reporter)
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
    """The run to go on with, brought up to date where that is asked for, or a new one."""
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
                f"{config.images} has other columns than when {uri} was begun: use another place "
                "or --overwrite"
            )
        sizes = shard_sizes(new.rows, workers, config.rows_per_file)
        seen["images that are new"] = new.rows
    changes = Changes(now, config.retry_failed)

    def notes_of_changes() -> dict[str, Any]:
        return seen | {
            "images that have changed": changes.changed,
            "images that have vanished, their rows are kept": changes.vanished,
            "images that had failed and are tried again": changes.retried,
        }

    return run.update(lease, changes, COLUMNS, new, sizes, notes_of_changes)


def _score_parts(
    config: ScoreConfig,
    bundle: Bundle,
    options: ScoreOptions,
    run: Run,
    lease: Lease,
    pool: Pool,
    crew: WorkerCount,
    reporter: Reporter,
) -> tuple[int, Counter[str]]:
    """Make the files and rows that are not there; returns how many images that took, and what the
    workers' time went into."""
    pending = run.pending()
    todo = sum(pending.values())
    if not pending:
        return 0, Counter()
    if todo < run.rows:
        reporter.say(f"going on: {run.rows - todo} of {run.rows} images are done")
    lease.check()
    run.storage.delete(join(run.uri, "_SUCCESS"))
    job = Job("scoring", run, lease, _work(config, bundle, options, run.storage))
    with reporter.bar("scoring") as bar:
        spent = pool.run(
            job, list(pending), crew, reporter.say, lambda rows: bar(todo, rows), images=todo
        )
    return todo, spent


def _work(config: ScoreConfig, bundle: Bundle, options: ScoreOptions, storage: Storage) -> Work:
    views = options.views
    return Work(
        make_mapper=functools.partial(Scorer, bundle, options),
        storage=storage,
        size=bundle.network(views).size,
        limits=options.limits,
        batch_size=max(1, config.batch_size // len(views)),
        decode=functools.partial(decode, views=views, padding=config.box_padding),
    )


def _options(config: ScoreConfig, bundle: Bundle) -> ScoreOptions:
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


def _identity(
    config: ScoreConfig, bundle: Bundle, options: ScoreOptions, detections: tuple[bytes, str] | None
) -> dict[str, Any]:
    """All that decides the rows: what a run must have in common with one it goes on with."""
    boxes = detections and {
        "sha256": detections[1],
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
        "images": normalise(config.images),
        "limit": config.limit,
        "include": list(config.include),
        "exclude": list(config.exclude),
        "top_k": options.top_k,
        "threshold": options.threshold,
        "embeddings": options.embeddings,
        "max_bytes": options.limits.max_bytes,
        "max_pixels": options.limits.max_pixels,
    }


def _list(
    config: ScoreConfig, storage: Storage, detections: tuple[bytes, str] | None
) -> tuple[Listing, dict[str, Any]]:
    """The images to score, each URI once, or its boxes, and what was seen on the way."""
    skipped: Counter[str] = Counter()
    images = list_images(config.images, storage, skipped, config.include, config.exclude)
    listing = collect(images, config.limit)
    if listing is None and skipped["excluded"]:
        raise InputError(
            f"--include and --exclude leave none of the {skipped['excluded']} images in "
            f"{config.images}: globs match the whole path below it, as in *.jpg or site-1/*"
        )
    if listing is None:
        raise InputError(
            f"no images in {config.images}: give a folder or prefix with images, or a manifest "
            "that ends in .csv or .parquet"
        )
    check_columns(listing.schema)
    notes = {
        "files skipped, side-cars by their name": skipped["side-car"],
        "files skipped, hidden": skipped["hidden"],
        "images left out by --include and --exclude": skipped["excluded"],
        "rows with a URI that was listed before": listing.repeated,
    }
    if detections is None:
        return listing, notes
    assert config.detections is not None
    found = parse_detections(normalise(config.detections), detections[0])
    matched = match(found, listing, config.images)
    threshold = config.detection_threshold
    threshold = found.threshold if threshold is None else threshold
    return make_rows(matched, listing, threshold), notes | count_unused(matched, threshold)


def _try(
    config: ScoreConfig,
    bundle: Bundle,
    options: ScoreOptions,
    listing: Listing,
    pool: Pool,
    crew: WorkerCount,
) -> Estimate:
    """Score a sample into a place that is thrown away, and estimate the time for all."""
    chosen = np.zeros(listing.rows, bool)
    chosen[:: max(1, listing.rows // _TRIAL_IMAGES)] = True
    sample = listing.only(chosen)
    storage = config.store.storage()
    # Beside the predictions, so that the trial writes where the job will.
    place = join(normalise(config.predictions), f".trial-{time.time_ns()}")
    half = -(-sample.rows // 2)
    sizes = [size for size in (half, sample.rows - half) if size]
    try:
        with hold(place, storage, lambda line: None) as lease:
            run = create_run(place, lease, {}, sample, sizes, ending="trial")
            job = Job("scoring", run, lease, _work(config, bundle, options, storage))
            one = replace(crew, workers=1)
            say = config.store.reporter().say
            pool.run(job, list(range(len(sizes))), one, say, lambda rows: None)
            tables = [table for _, table in run.read_parts(["status", "predicted_at"])]
    finally:
        storage.delete_tree(place)
    # The first half warms the network up; the second half's last row comes after the first's.
    ends = [pc.max(table["predicted_at"]).as_py() for table in tables if table.num_rows]
    seconds = (ends[-1] - ends[0]).total_seconds() if len(ends) > 1 else None
    tried = Counter(status for table in tables for status in table["status"].to_pylist())
    rate = sizes[-1] / seconds * crew.workers if seconds else None
    return Estimate(listing.rows, tried, rate, crew.workers)
