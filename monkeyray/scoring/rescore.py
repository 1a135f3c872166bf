"""The rescoring job: predictions with embeddings in, the same with another head's scores out.

All that a head, a temperature or a threshold decides follows from the backbone's features, which
`score --embeddings` keeps. So no image is opened. The result is a run as scoring writes it, with a
part for each part that there was.

The parts go to Ray's actors and not to threads of the driver: a hundred million rows are 400 GB of
features, which pass through a worker each and never through one machine alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.errors import InputError, MissingError
from monkeyray.images.decode import Limits
from monkeyray.model.backbones import Weights
from monkeyray.model.bundle import Bundle, load_bundle
from monkeyray.model.head import head_logits
from monkeyray.options import HIDDEN_NAME, write_options
from monkeyray.runs.cluster import check_relative, connected
from monkeyray.runs.lease import hold
from monkeyray.runs.parts import Job
from monkeyray.runs.plan import same_rows
from monkeyray.runs.ray_pool import RayPool
from monkeyray.runs.reader import open_predictions
from monkeyray.runs.run import Run, clear, create_run_of_parts, open_run
from monkeyray.scoring.options import RescoreConfig, parse_top_k
from monkeyray.scoring.rows import (
    JUDGED,
    OVERFLOW,
    SCHEMA_VERSION,
    Finite,
    PostProcessor,
    ScoreOptions,
)
from monkeyray.scoring.score import Summary
from monkeyray.storage.location import join, normalise
from monkeyray.storage.store import Storage

#: Rows that are judged at a time: the distances to what a head was trained on need room.
_ROWS = 2048


@dataclass(frozen=True)
class Rescorer:
    """Makes the new rows of a part out of the old ones, in the same order."""

    old: Run
    judge: PostProcessor
    finite: Finite
    head_weights: Weights
    model_id: str

    def __call__(self, part: int, plan: pa.Table) -> Iterator[pa.Table]:
        """The new rows in tables of some thousand.

        Raises InputError where the old part is gone or has other rows than were planned.
        """
        try:
            table = self.old.read_part(part)
        except MissingError:
            table = None
        if table is None or not same_rows(table, plan):
            raise InputError(
                f"{self.old.part_uri(part)} is gone or was changed by another program: run the "
                "command that wrote it once more, which mends it, then this one"
            )
        for start in range(0, max(1, table.num_rows), _ROWS):
            yield self.rows(table.slice(start, _ROWS))

    def rows(self, table: pa.Table) -> pa.Table:
        """New rows for old ones: a row without features stays without what is judged."""
        embedding = table["embedding"]
        good = np.flatnonzero(embedding.is_valid().to_numpy()).tolist()
        width = embedding.type.list_size
        flat = embedding.drop_null().combine_chunks().flatten()
        features = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
        logits = head_logits(self.head_weights, features)
        finite = self.finite(features, logits)
        judged = self.judge(features[finite], logits[finite])
        columns: dict[str, Any] = {name: table[name] for name in table.column_names}
        if not finite.all():
            told = {name: table[name].to_pylist() for name in ("status", "error")}
            for row in np.array(good, int)[~finite]:
                told["status"][row], told["error"][row] = OVERFLOW
            columns |= told
            good = np.array(good, int)[finite].tolist()
        for name in JUDGED:
            columns[name] = [None] * table.num_rows
            for row, value in zip(good, judged[name], strict=True):
                columns[name][row] = value
        columns["model_id"] = [self.model_id] * table.num_rows
        columns["predicted_at"] = [datetime.now(UTC)] * table.num_rows
        return pa.table(columns, schema=table.schema)


def rescore(config: RescoreConfig) -> Summary:
    """Score predictions again, or go on where an earlier call was stopped.

    Raises a MonkeyRayError that says what to change.
    """
    start = time.monotonic()
    reporter = config.store.reporter()
    storage = config.store.storage()
    for option in ("predictions", "model", "output"):
        check_relative(option, getattr(config, option))
        storage.check_reachable(normalise(getattr(config, option)))
    uri = normalise(config.output)
    bundle = load_bundle(config.model, storage, config.model_id)
    old = open_predictions(config.predictions, storage).run
    options = _options(config, old, bundle)
    identity = _identity(old, bundle, options)
    rescorer = Rescorer(
        old,
        PostProcessor(bundle, options),
        Finite(bundle.model_id),
        bundle.head_weights,
        bundle.model_id,
    )
    storage.check_writable(uri)
    with hold(uri, storage, reporter.say) as lease:
        run = None if config.overwrite else open_run(uri, storage, identity)
        if run is None:
            if config.overwrite:
                clear(uri, lease)
            kept = [name for name in ("uri", "detection") if name in old.plan.schema().names]
            plans = (plan.select(kept) for _, plan in old.plan.read_all())
            run = create_run_of_parts(uri, lease, identity, plans, old.plan.sizes)
        write_options(uri, config, storage, HIDDEN_NAME)
        pending = run.pending()
        todo = sum(pending.values())
        if pending:
            if todo < run.rows:
                reporter.say(f"going on: {run.rows - todo} of {run.rows} images are done")
            lease.check()
            storage.delete(join(uri, "_SUCCESS"))
            with connected(config.store.ray_address, config.store.debug):
                pool = RayPool()
                crew = pool.crew("workers", config.workers, False)
                pool.check_shared(storage, {"predictions": old.uri}, {"output": uri})
                job = Job("rescoring", run, lease, rescorer)
                with reporter.bar("rescoring") as bar:
                    pool.run(
                        job, list(pending), crew, reporter.say, lambda rows: bar(todo, rows), todo
                    )
        _check_unchanged(old, storage)
        totals = run.finish(lease, count=("label", "decision"))
    seconds = time.monotonic() - start
    return Summary(
        uri,
        totals["status"],
        totals["label"],
        totals["decision"],
        bundle.names,
        {},
        todo,
        run.rows - todo,
        seconds,
        boxes=bool(old.identity.get("detections")),
    )


def _options(config: RescoreConfig, old: Run, bundle: Bundle) -> ScoreOptions:
    """How to judge. Raises InputError where the features are not those of the model's backbone."""
    was, model = old.identity, f"the model {bundle.model_id[:12]} in {config.model}"
    if was.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{old.uri} holds no predictions of this version of MonkeyRay: score the images again"
        )
    if not was.get("embeddings"):
        raise InputError(
            f"the predictions in {old.uri} have no embeddings, so that the images are needed: "
            "score them once more with `monkeyray score --embeddings`"
        )
    backbone, decoding = bundle.model["weights"]["backbone"], bundle.model["preprocessing"]
    if (
        was.get("backbone_weights") != backbone
        or was.get("decode_version") != decoding["decode_version"]
    ):
        raise InputError(
            f"the embeddings in {old.uri} are from another backbone than {model} has: train the "
            "new head on the same --backbone and --weights, without --fine-tune, or score the "
            "images with it"
        )
    views = tuple(was["views"])
    count = len(views)
    if views != bundle.views[:count] or str(count) not in bundle.model["calibration"]:
        raise InputError(
            f"the embeddings in {old.uri} are of {_views(views)} of each image, and {model} was "
            f"made for {_views(bundle.views)}: train the new head with --crop "
            f"{views[0]} --views {count}, or score the images with it"
        )
    top_k = parse_top_k(config.top_k, len(bundle.labels))
    return ScoreOptions(views, top_k, config.threshold, embeddings=True, limits=Limits())


def _views(views: tuple[str, ...]) -> str:
    return f"the view {views[0]}" if len(views) == 1 else f"the views {', '.join(views)}"


def _identity(old: Run, bundle: Bundle, options: ScoreOptions) -> dict[str, Any]:
    """What the old run was, but for what changes, and which of its states this is: an update gives
    it another plan."""
    return old.identity | {
        "model_id": bundle.model_id,
        "top_k": options.top_k,
        "threshold": options.threshold,
        "rescored": {
            "predictions": old.uri,
            "run_id": old.run_id,
            "plan": old.plan.folder.rpartition("/")[2],
        },
    }


def _check_unchanged(old: Run, storage: Storage) -> None:
    now = open_predictions(old.uri, storage).run
    if (now.run_id, now.plan.folder) != (old.run_id, old.plan.folder):
        raise InputError(
            f"the predictions in {old.uri} have been updated meanwhile: rescore them anew with "
            "--overwrite"
        )
