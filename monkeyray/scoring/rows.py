"""The rows of predictions: their schema, and a batch of images to rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.arrays import Array
from monkeyray.errors import BundleError, InputError
from monkeyray.images.decode import Limits
from monkeyray.model.bundle import Bundle
from monkeyray.model.engines import TENSORFLOW, EngineChoice
from monkeyray.runs.fetch import IMAGE_FIELDS, Batch
from monkeyray.statistics.metrics import softmax
from monkeyray.statistics.outliers import OutlierModel
from monkeyray.statistics.thresholds import ACCEPTED, BELOW, decide
from monkeyray.storage.tables import rename_reserved

#: Goes up when a column changes its name, type or meaning.
SCHEMA_VERSION = 2

#: Statuses of images that have a score.
SCORED = ("ok", "truncated")

_PLAN_COLUMNS = ("uri", "size_bytes", "version")


@dataclass(frozen=True)
class ScoreOptions:
    """What changes the rows of predictions. `views`: those that scores are averaged over. `top_k`:
    how many labels each row lists. `threshold`: one for all, in the place of the bundle's."""

    views: tuple[str, ...]
    top_k: int
    threshold: float | None
    embeddings: bool
    limits: Limits
    engine: EngineChoice = TENSORFLOW
    #: Rows that are made again are later than those that they replace, whatever the clocks say.
    not_before: datetime | None = None


_FIELDS = [
    *IMAGE_FIELDS[:3],
    ("label", pa.string()),
    ("score", pa.float32()),
    ("decision", pa.string()),
    ("ood_score", pa.float32()),
    ("top_k", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))),
    *IMAGE_FIELDS[3:],
    ("model_id", pa.string()),
    ("predicted_at", pa.timestamp("us", "UTC")),
]


def prediction_schema(plan: pa.Schema, embedding_width: int | None = None) -> pa.Schema:
    """The schema of predictions; columns that a manifest carried, and those of boxes, come last.

    A manifest's column with a name of ours is carried as `input_` and its name.
    """
    fields = list(_FIELDS)
    if embedding_width is not None:
        fields.append(("embedding", pa.list_(pa.float32(), embedding_width)))
    fields += [(ours, plan.field(theirs).type) for theirs, ours in carried_columns(plan).items()]
    return pa.schema(fields, metadata={"monkeyray.schema_version": str(SCHEMA_VERSION)})


def carried_columns(plan: pa.Schema) -> dict[str, str]:
    """Which columns of a plan are carried through, each with its name in the predictions.

    >>> carried_columns(pa.schema([("uri", pa.string()), ("site", pa.string()),
    ...                            ("label", pa.string()), ("input_label", pa.string())]))
    {'site': 'site', 'label': 'input_input_label', 'input_label': 'input_label'}
    """
    carried = [name for name in plan.names if name not in _PLAN_COLUMNS]
    return rename_reserved(carried, {"embedding", *(name for name, _ in _FIELDS)})


def check_columns(plan: pa.Schema) -> None:
    """Raise InputError for columns that Parquet cannot hold."""
    for field in plan:
        if pa.types.is_null(field.type):
            raise InputError(
                f"the manifest's column {field.name!r} has no values and no type: leave it out or "
                "give it one"
            )


class PostProcessor:
    """Features to labels, scores and decisions, in NumPy: what scoring and rescoring share."""

    def __init__(self, bundle: Bundle, options: ScoreOptions) -> None:
        self._labels = np.array(bundle.labels, dtype=object)
        self._outliers = OutlierModel.from_arrays(bundle.outliers)
        self._calibration = bundle.calibration(options.views)
        self._options = options

    def __call__(self, features: Array, logits: Array) -> dict[str, list[Any]]:
        """The columns label to top_k of images from the mean features of their views, (n, width),
        and their logits (n, labels), all finite.
        """
        options = self._options
        probabilities = softmax(logits / self._calibration.temperature).astype(np.float32)
        # Stable, so that equal scores come in the order of the labels.
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : options.top_k]
        first = order[:, 0]
        scores = probabilities[np.arange(len(order)), first]
        return {
            "label": self._labels[first].tolist(),
            "score": scores.tolist(),
            "decision": self._decide(scores, first),
            "ood_score": self._outliers.score(features, len(options.views)).tolist(),
            "top_k": [
                [{"label": self._labels[i], "score": row[i]} for i in best]
                for best, row in zip(order, probabilities, strict=True)
            ],
        }

    def _decide(self, scores: Array, first: Array) -> list[Any]:
        if self._options.threshold is not None:
            return list(np.where(scores >= self._options.threshold, ACCEPTED, BELOW))
        if self._calibration.thresholds is None:
            return [None] * len(scores)
        return list(decide(scores, first, self._calibration.thresholds))


#: Status and error of an image for which the network gives no finite number.
OVERFLOW = ("overflow", "the network's answer to it is no finite number")

#: So many images in the beginning without a finite answer are the network's own doing.
_OVERFLOWS = 64


class Finite:
    """Tells which answers of a network are finite numbers: weights that are may still overflow."""

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._overflows: int | None = 0

    def __call__(self, features: Array, logits: Array) -> Array:
        """Bool (n,) for features (n, width) and logits (n, labels).

        Raises BundleError where none of the first images has a finite answer.
        """
        finite: Array = np.isfinite(np.hstack([logits, features])).all(axis=1)
        if self._overflows is not None:
            self._overflows = None if finite.any() else self._overflows + len(finite)
            if (self._overflows or 0) >= _OVERFLOWS:
                raise BundleError(
                    f"the network of the model {self._model_id[:12]} gives no finite numbers for "
                    f"any of the first {self._overflows} images: use another --precision where "
                    "there is one, or train it again"
                )
        return finite


#: The columns that a PostProcessor fills.
JUDGED = ("label", "score", "decision", "ood_score", "top_k")


class Scorer:
    """Maps batches of images to rows of predictions."""

    def __init__(self, bundle: Bundle, options: ScoreOptions) -> None:
        self._engine = options.engine.build(bundle.network(options.views))
        self._judge = PostProcessor(bundle, options)
        self._model_id = bundle.model_id
        self._finite = Finite(bundle.model_id)
        self._options = options

    def __call__(self, batch: Batch, decode: Callable[[Batch], Any]) -> pa.Table:
        options = self._options
        columns: dict[str, Any]
        columns, pixels, good = decode(batch)
        each, logits = self._engine(pixels)
        features = each.mean(axis=1)
        rows = len(batch.fetched)
        finite = self._finite(features, logits)
        for place in np.array(good, int)[~finite]:
            columns["status"][place], columns["error"][place] = OVERFLOW
        good = np.array(good, int)[finite].tolist()
        features = features[finite]
        judged = self._judge(features, logits[finite])
        for name, values in (judged | {"embedding": features}).items():
            columns[name] = [None] * rows
            for position, value in zip(good, values, strict=True):
                columns[name][position] = value
        columns["model_id"] = [self._model_id] * rows
        now = datetime.now(UTC)
        columns["predicted_at"] = [max(now, options.not_before or now)] * rows
        width = features.shape[1] if options.embeddings else None
        schema = prediction_schema(batch.plan.schema, width)
        for theirs, ours in carried_columns(batch.plan.schema).items():
            columns[ours] = batch.plan[theirs]
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)
