"""The columns of predictions: a versioned format. COLUMNS is its documentation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monkeyray.arrays import Array
from monkeyray.errors import InputError
from monkeyray.images.boxes import BOX_FIELDS
from monkeyray.runs.run import Run
from monkeyray.runs.workers.batches import IMAGE_FIELDS
from monkeyray.storage.tables import rename_reserved

#: Increases when a column changes its name, type or meaning.
SCHEMA_VERSION = 2

#: Statuses of images that have a score.
SCORED = ("ok", "truncated", "damaged")


class Column(NamedTuple):
    """A column of predictions. `type` is None if it depends on the model."""

    name: str
    type: pa.DataType | None
    meaning: str


_TYPES = dict([*IMAGE_FIELDS, *BOX_FIELDS])
_SCORES = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))

#: The columns of every row, in their order.
COLUMNS = (
    Column("uri", _TYPES["uri"], "the image"),
    Column(
        "status", _TYPES["status"],
        "`ok`, `truncated` or `damaged` if the image was scored, otherwise why it was not",
    ),
    Column("error", _TYPES["error"], "the reason in words; null if `status` is `ok`"),
    Column(
        "label", pa.string(),
        "the likeliest label; null if the image was not scored, like all columns up to `top_k`",
    ),
    Column("score", pa.float32(), "its calibrated probability, 0 to 1"),
    Column(
        "decision", pa.string(),
        "`accepted` or `below_threshold`, by the model's thresholds or `--threshold`; "
        "`no_threshold` if the promised precision cannot be reached for this label; null if there "
        "are no thresholds",
    ),
    Column(
        "ood_score", pa.float32(),
        "how unlike all labels the image is: 0 is the median of known images, and above 1 it is "
        "less typical than 95% of them",
    ),
    Column("top_k", _SCORES, "the `--top-k` likeliest labels, the likeliest first"),
    Column("width", _TYPES["width"], "pixels as displayed, EXIF orientation applied"),
    Column("height", _TYPES["height"], "pixels as displayed"),
    Column(
        "captured_at", _TYPES["captured_at"],
        "when it was taken, local time in ISO 8601, with an offset only if it is known; from the "
        "manifest, else from EXIF",
    ),
    Column("size_bytes", _TYPES["size_bytes"], "size of the file that was read"),
    Column("etag_or_mtime", _TYPES["etag_or_mtime"], "its version in the store"),
    Column("sha256", _TYPES["sha256"], "its hash; null if it was not read"),
    Column("model_id", pa.string(), "the model that made the row"),
    Column("predicted_at", pa.timestamp("us", "UTC"), "when the row was made"),
)  # fmt: skip

#: The last of the columns above, with --embeddings.
EMBEDDING = Column("embedding", None, "features of the backbone, averaged over the views")

#: After the columns above, with --allowed.
EXCLUDED = Column(
    "excluded_label", pa.string(),
    "the likeliest label, if `--allowed` excludes it where the image was taken; null otherwise",
)  # fmt: skip

#: With --detections, when each row is a box. They come after the others.
BOX_COLUMNS = (
    Column(
        "detection", _TYPES["detection"],
        "the box's position in the image's list of detections, from 0; null without a box",
    ),
    Column(
        "detection_category", _TYPES["detection_category"],
        "`animal`, `person` or `vehicle`; `blank` without a box; `failure` if the detector could "
        "not read the image; null if it is not in the detections",
    ),
    Column(
        "detection_conf", _TYPES["detection_conf"],
        "the detector's confidence, 0 to 1; negative in a box that was eliminated",
    ),
    Column(
        "detection_bbox", _TYPES["detection_bbox"],
        "left, top, width and height as fractions of the upright image",
    ),
)  # fmt: skip

_PLAN_COLUMNS = ("uri", "size_bytes", "version", "captured_at")


def describe_columns() -> list[tuple[str, str, str]]:
    """Name, type and meaning of all columns, for documentation.

    >>> describe_columns()[0]
    ('uri', 'string', 'the image')
    """
    columns = (*COLUMNS, EMBEDDING, EXCLUDED, *BOX_COLUMNS)
    return [(name, str(kind or "list<float>"), meaning) for name, kind, meaning in columns]


def prediction_schema(
    plan: pa.Schema, embedding_width: int | None = None, *, allowed: bool = False
) -> pa.Schema:
    """The schema of the predictions of a plan; columns carried from a manifest come last."""
    fields = [(name, kind) for name, kind, _ in COLUMNS]
    if embedding_width is not None:
        fields.append((EMBEDDING.name, pa.list_(pa.float32(), embedding_width)))
    fields += [(ours, plan.field(theirs).type) for theirs, ours in carried_columns(plan).items()]
    schema = pa.schema(fields, metadata={"monkeyray.schema_version": str(SCHEMA_VERSION)})
    return with_excluded(schema, allowed)


def with_excluded(schema: pa.Schema, allowed: bool) -> pa.Schema:
    """A schema of predictions with or without the column of --allowed."""
    place = schema.get_field_index(EXCLUDED.name)
    schema = schema if place < 0 else schema.remove(place)
    if not allowed:
        return schema
    last = max(map(schema.get_field_index, (COLUMNS[-1].name, EMBEDDING.name)))
    return schema.insert(last + 1, pa.field(EXCLUDED.name, EXCLUDED.type))


def carried_columns(plan: pa.Schema) -> dict[str, str]:
    """The columns of a plan that predictions carry, each with its name there.

    >>> carried_columns(pa.schema([("uri", pa.string()), ("site", pa.string()),
    ...                            ("label", pa.string()), ("input_label", pa.string())]))
    {'site': 'site', 'label': 'input_input_label', 'input_label': 'input_label'}
    """
    theirs = [name for name in plan.names if name not in _PLAN_COLUMNS]
    return rename_reserved(theirs, {EMBEDDING.name, EXCLUDED.name, *(name for name, *_ in COLUMNS)})


def check_version(run: Run) -> None:
    """Raise InputError if the predictions of a run have another SCHEMA_VERSION."""
    if run.identity.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"another version of MonkeyRay wrote the predictions in {run.place}: score the images "
            "again"
        )


def check_columns(plan: pa.Schema) -> None:
    """Raise InputError for columns that Parquet cannot hold."""
    for field in plan:
        if pa.types.is_null(field.type):
            raise InputError(
                f"the manifest's column {field.name!r} has no values, hence no type: leave it out "
                "or give it one"
            )


def listed_labels(top_k: pa.ChunkedArray) -> set[str]:
    """The labels in a column top_k."""
    return set(pc.unique(_listed(top_k, "label")).to_pylist())


def listed_scores(top_k: pa.ChunkedArray, labels: list[str], dtype: Any = np.float64) -> Array:
    """A column top_k as an array (n, labels), 0 for labels that a row does not list and for rows
    that were not scored."""
    scores = np.zeros((len(top_k), len(labels)), dtype)
    counts = pc.fill_null(pc.list_value_length(top_k), 0).to_numpy()
    columns = pc.index_in(_listed(top_k, "label"), value_set=pa.array(labels, pa.string()))
    rows = np.repeat(np.arange(len(top_k)), counts)
    scores[rows, columns.to_numpy()] = _listed(top_k, "score").to_numpy()
    return scores


def _listed(top_k: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    return pc.struct_field(pc.list_flatten(top_k), name)
