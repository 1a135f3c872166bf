"""The mappers of the jobs: a batch of images, or their features, to rows of predictions or of the
feature cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array, Flags, Floats, Ints
from monkeyray.errors import BundleError, InputError, MissingError
from monkeyray.images.boxes import BOX_FIELDS, has_boxes
from monkeyray.images.decode import Limits
from monkeyray.model.backbones import Weights
from monkeyray.model.bundle import Bundle
from monkeyray.model.engines.choice import TENSORFLOW, EngineChoice
from monkeyray.model.head import head_logits
from monkeyray.runs.plan import same_rows
from monkeyray.runs.reader import Predictions
from monkeyray.runs.workers.batches import IMAGE_FIELDS, Batch
from monkeyray.scoring.allowed import Allowed, masked
from monkeyray.scoring.schema import (
    EMBEDDING,
    EXCLUDED,
    carried_columns,
    prediction_schema,
    with_excluded,
)
from monkeyray.statistics.fingerprints import THUMBNAIL_BYTES
from monkeyray.statistics.metrics import softmax
from monkeyray.statistics.outliers import OutlierModel
from monkeyray.statistics.thresholds import ACCEPTED, BELOW, decide

#: Status and error of an image for which the network returns numbers that are not finite.
OVERFLOW = ("overflow", "the network's output is not finite")

#: This many overflows in a row at the start mean that the network is at fault.
_OVERFLOWS = 64

#: Rows processed at a time: the distances to the training images take memory.
_ROWS = 2048


@dataclass(frozen=True)
class ScoreOptions:
    """The options that rows depend on.

    `views`: those that scores are averaged over. `top_k`: how many labels each row lists.
    `threshold`: one for all labels, in place of the bundle's. `allowed`: labels by place.
    """

    views: tuple[str, ...]
    top_k: int
    threshold: float | None
    embeddings: bool
    limits: Limits
    engine: EngineChoice = TENSORFLOW
    allowed: Allowed | None = None


class PostProcessor:
    """Fills the columns of predictions from features and logits, in scoring and in rescoring."""

    def __init__(self, bundle: Bundle, options: ScoreOptions) -> None:
        self.model_id = bundle.model_id
        self.options = options
        self._labels = np.array(bundle.labels, dtype=object)
        self._outliers = OutlierModel.from_arrays(bundle.outliers)
        self._calibration = bundle.calibration(options.views)
        self._overflows: int | None = 0

    def __call__(
        self,
        columns: dict[str, Any],
        places: Ints,
        features: Array,
        logits: Array,
        images: pa.Table | None = None,
    ) -> Flags:
        """Add the columns that depend on the model, for all rows of `columns`.

        `columns`: has the lists `status` and `error`, which are set for images that overflow.
        `places`: the rows (n,) of the mean features (n, width) and the logits (n, labels); others
        become null. `images`: the rows' columns that say where they were taken, for options with
        `allowed`. Returns which of them are finite, bool (n,). Raises BundleError if none of the
        first images is.
        """
        finite = self._finite(features, logits)
        for place in places[~finite].tolist():
            columns["status"][place], columns["error"][place] = OVERFLOW
        rows = len(columns["status"])
        mask = None
        if self.options.allowed is not None and images is not None and len(places):
            mask = self.options.allowed.mask(images)[places[finite]]
        for name, values in self.predict(features[finite], logits[finite], mask).items():
            columns[name] = scatter(values, places[finite], rows)
        columns["model_id"] = [self.model_id] * rows
        columns["predicted_at"] = [datetime.now(UTC)] * rows
        return finite

    def predict(
        self, features: Array, logits: Array, mask: Flags | None = None
    ) -> dict[str, list[Any]]:
        """The columns that depend on the model, for finite features (n, width) and logits (n,
        labels). `mask`: the labels that are allowed, bool (n, labels); others have no probability
        and are not listed."""
        likeliest = logits.argmax(axis=1)
        logits = masked(logits, mask)
        probabilities = softmax(logits / self._calibration.temperature).astype(np.float32)
        # Stable, so that equal scores come in the order of the labels.
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.options.top_k]
        best = order[:, 0]
        scores = probabilities[np.arange(len(order)), best]
        kept = np.isfinite(np.take_along_axis(logits, order, axis=1))
        columns = {
            "label": self._labels[best].tolist(),
            "score": scores.tolist(),
            "decision": self._decide(scores, best),
            "ood_score": self._outliers.score(features, len(self.options.views)).tolist(),
            "top_k": [
                [{"label": self._labels[i], "score": row[i]} for i in listed[its]]
                for listed, its, row in zip(order, kept, probabilities, strict=True)
            ],
        }
        if self.options.allowed is not None:
            columns[EXCLUDED.name] = [
                None if first == its else self._labels[first]
                for first, its in zip(likeliest.tolist(), best.tolist(), strict=True)
            ]
        return columns

    def _decide(self, scores: Array, best: Array) -> list[Any]:
        if self.options.threshold is not None:
            return list(np.where(scores >= self.options.threshold, ACCEPTED, BELOW))
        if self._calibration.thresholds is None:
            return [None] * len(scores)
        return list(decide(scores, best, self._calibration.thresholds))

    def _finite(self, features: Array, logits: Array) -> Flags:
        # Finite weights may still overflow.
        finite: Flags = np.isfinite(np.hstack([logits, features])).all(axis=1)
        if self._overflows is not None:
            self._overflows = None if finite.any() else self._overflows + len(finite)
            if (self._overflows or 0) >= _OVERFLOWS:
                raise BundleError(
                    f"the network of the model {self.model_id[:12]} returns no finite numbers for "
                    f"any of the first {self._overflows} images: use another --precision if it is "
                    "not float32, or train the model again"
                )
        return finite


class BatchScorer:
    """Maps batches of images to rows of predictions; see decode_process.Mapper."""

    def __init__(self, bundle: Bundle, options: ScoreOptions) -> None:
        self._postprocess = PostProcessor(bundle, options)

    def __call__(
        self, batch: Batch, columns: dict[str, Any], good: list[int], each: Floats, logits: Floats
    ) -> pa.Table:
        features, places = each.mean(axis=1), np.array(good, np.int64)
        finite = self._postprocess(columns, places, features, logits, batch.plan)
        width = None
        if self._postprocess.options.embeddings:
            width = features.shape[1]
            columns[EMBEDDING.name] = scatter(features[finite], places[finite], len(batch.fetched))
        has_allowed = self._postprocess.options.allowed is not None
        schema = prediction_schema(batch.plan.schema, width, allowed=has_allowed)
        for theirs, ours in carried_columns(batch.plan.schema).items():
            columns[ours] = batch.plan[theirs]
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def embed_batch(
    batch: Batch, columns: dict[str, Any], good: list[int], features: Floats, logits: Floats
) -> pa.Table:
    """Map a batch of images to their content hash, thumbnail and features; see
    decode_process.Mapper."""
    vectors = features.reshape(len(features), features.shape[1] * features.shape[2])
    columns["embedding"] = scatter(vectors, np.array(good, np.int64), len(batch.fetched))
    fields = [
        *IMAGE_FIELDS,
        ("thumbnail", pa.binary(THUMBNAIL_BYTES)),
        ("embedding", pa.list_(pa.float32(), vectors.shape[1])),
    ]
    if has_boxes(batch.plan.column_names):
        for name, kind in BOX_FIELDS:
            fields.append((name, kind))
            columns[name] = batch.plan[name]
    return pa.table(columns, schema=pa.schema(fields))


@dataclass(frozen=True)
class Rescorer:
    """Maps the old rows of a shard to the new ones, in the same order."""

    old: Predictions
    postprocess: PostProcessor
    head_weights: Weights

    def __call__(self, shard: int, plan: pa.Table) -> Iterator[pa.Table]:
        """The new rows, as tables of up to _ROWS.

        Raises InputError if the old file is gone or its rows are not those planned.
        """
        try:
            table = self.old.read_shard(shard)
        except MissingError:
            table = None
        if table is None or not same_rows(table, plan):
            raise InputError(
                f"{self.old.files[shard]} is gone or was changed by another program: rerun the "
                "command that wrote it, which repairs it, then this one"
            )
        for start in range(0, max(1, table.num_rows), _ROWS):
            yield self.rows(table.slice(start, _ROWS))

    def rows(self, table: pa.Table) -> pa.Table:
        """New rows for old ones; rows without features stay without predictions."""
        embedding = table["embedding"]
        width = embedding.type.list_size
        flat = embedding.drop_null().combine_chunks().flatten()
        features = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
        places = np.flatnonzero(embedding.is_valid().to_numpy())
        columns: dict[str, Any] = {name: table[name] for name in table.column_names}
        columns |= {name: table[name].to_pylist() for name in ("status", "error")}
        logits = head_logits(self.head_weights, features)
        columns.pop(EXCLUDED.name, None)
        self.postprocess(columns, places, features, logits, table)
        schema = with_excluded(table.schema, EXCLUDED.name in columns)
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def scatter(values: Iterable[Any], places: Ints, rows: int) -> list[Any]:
    """A column with each of the values at its place, None elsewhere.

    >>> scatter("ab", np.array([3, 1]), 4)
    [None, 'b', None, 'a']
    """
    column: list[Any] = [None] * rows
    for place, value in zip(places.tolist(), values, strict=True):
        column[place] = value
    return column
