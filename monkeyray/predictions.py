"""The rows of predictions: their schema, and a batch of images to rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.batches import IMAGE_FIELDS, Batch
from monkeyray.decode import Limits
from monkeyray.engine import Network, TensorFlowEngine

#: Goes up when a column changes its name, type or meaning.
SCHEMA_VERSION = 1

_PLAN_COLUMNS = ("uri", "size_bytes", "version")


@dataclass(frozen=True)
class ScoreOptions:
    """What changes the rows of predictions. `top_k` 0 means all labels."""

    top_k: int
    threshold: float | None
    embeddings: bool
    limits: Limits
    #: Rows that are made again are later than those that they replace, whatever the clocks say.
    not_before: datetime | None = None


def prediction_schema(plan: pa.Schema, embedding_width: int | None = None) -> pa.Schema:
    """The schema of predictions; columns that a manifest carried come last.

    A manifest's column with a name of ours is carried as `input_` and its name.
    """
    fields = [
        *IMAGE_FIELDS[:3],
        ("label", pa.string()),
        ("score", pa.float32()),
        ("decision", pa.string()),
        ("top_k", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))),
        *IMAGE_FIELDS[3:],
        ("model_id", pa.string()),
        ("predicted_at", pa.timestamp("us", "UTC")),
    ]
    if embedding_width is not None:
        fields.append(("embedding", pa.list_(pa.float32(), embedding_width)))
    ours = {name for name, _ in fields}
    for name in plan.names:
        if name not in _PLAN_COLUMNS:
            fields.append((_carried(name, ours), plan.field(name).type))
    return pa.schema(fields, metadata={"monkeyray.schema_version": str(SCHEMA_VERSION)})


def _carried(name: str, ours: set[str]) -> str:
    return f"input_{name}" if name in ours else name


class Scorer:
    """Maps batches of images to rows of predictions."""

    def __init__(
        self, network: Network, labels: list[str], model_id: str, options: ScoreOptions
    ) -> None:
        self._network = network
        self._engine = TensorFlowEngine(network)
        self._labels = np.array(labels, dtype=object)
        self._model_id = model_id
        self._options = options

    def __call__(self, batch: Batch, decode: Callable[[Batch], Any]) -> pa.Table:
        options = self._options
        columns: dict[str, Any]
        columns, pixels, good = decode(batch)
        features, probabilities = self._engine(pixels)
        rows = len(batch.fetched)
        # Stable, so that equal scores come in the order of the labels.
        order = np.argsort(-probabilities, axis=1, kind="stable")
        order = order[:, : options.top_k or None]
        for name in ("label", "score", "decision", "top_k", "embedding"):
            columns[name] = [None] * rows
        for position, best, scores, vector in zip(
            good, order, probabilities, features, strict=True
        ):
            first = best[0]
            columns["label"][position] = self._labels[first]
            columns["score"][position] = scores[first]
            if options.threshold is not None:
                accepted = bool(scores[first] >= options.threshold)
                columns["decision"][position] = "accepted" if accepted else "below_threshold"
            columns["top_k"][position] = [
                {"label": self._labels[i], "score": scores[i]} for i in best
            ]
            columns["embedding"][position] = vector
        columns["model_id"] = [self._model_id] * rows
        now = datetime.now(UTC)
        columns["predicted_at"] = [max(now, options.not_before or now)] * rows
        width = features.shape[1] if options.embeddings else None
        schema = prediction_schema(batch.plan.schema, width)
        ours = set(columns)
        for name in batch.plan.column_names:
            if name not in _PLAN_COLUMNS:
                columns[_carried(name, ours)] = batch.plan[name]
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)
