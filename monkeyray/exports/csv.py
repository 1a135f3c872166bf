"""Predictions as one CSV file, with the same columns for all models and options."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.csv

from monkeyray.exports.deployments import REASONS, Deployments
from monkeyray.exports.job import Export, Job
from monkeyray.exports.taxonomy import Group, Taxa, roll_up_rows
from monkeyray.exports.times import stamp
from monkeyray.images.boxes import OBSERVED, tidy_box
from monkeyray.storage.location import Location
from monkeyray.storage.spreadsheets import guard, is_formula

#: Columns that predictions have too.
_COPIED = [
    ("uri", pa.string()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("label", pa.string()),
    ("score", pa.float32()),
    ("decision", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("size_bytes", pa.int64()),
    ("captured_at", pa.string()),
    ("sha256", pa.string()),
    ("model_id", pa.string()),
    ("predicted_at", pa.string()),
]
#: `path`: below the images' folder, empty for other images; ./ in front keeps spreadsheets from
#: evaluating it, as ' does for other text. `top_k`: a JSON list of [label, score].
#: `timestamp` to `longitude`: from the deployments, empty without them. `rollup_…`: the lowest
#: taxon that reaches the roll-up threshold, empty if there is none. `detection…`: the box of the
#: row, empty if whole images were scored.
SCHEMA = pa.schema(
    [
        *_COPIED,
        ("top_k", pa.string()),
        ("path", pa.string()),
        ("observation_type", pa.string()),
        ("scientific_name", pa.string()),
        ("common_name", pa.string()),
        ("deployment_id", pa.string()),
        ("timestamp", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("undated", pa.string()),
        ("rollup_rank", pa.string()),
        ("rollup_taxon", pa.string()),
        ("rollup_score", pa.float32()),
        ("detection", pa.int32()),
        ("detection_category", pa.string()),
        ("detection_conf", pa.float32()),
        *((f"detection_{side}", pa.float64()) for side in ("x", "y", "width", "height")),
    ]
)
_BOX = [name for name in SCHEMA.names if name.startswith("detection")]
_ROLLUP: dict[str, Callable[[Group, float], Any]] = {
    "rollup_rank": lambda group, score: group.rank,
    "rollup_taxon": lambda group, score: group.name,
    "rollup_score": lambda group, score: score,
}


def export_csv(job: Job) -> Export:
    """Write all rows, also of images without a time, which are counted as left out."""
    predictions, taxa, deployments = job.predictions, job.taxa, job.source.deployments
    kinds: Counter[str] = Counter()
    undated: Counter[str] = Counter()
    columns = [name for name, _ in _COPIED] + ["top_k"]
    with job.storage.writing(job.output) as file, pyarrow.csv.CSVWriter(file, SCHEMA) as writer:
        for table in predictions.tables([*columns, *predictions.box_columns], job.advance):
            rows = table.select(["uri", "status", "label", "captured_at", "top_k"]).to_pydict()
            made = _derive(rows, job.source.root, taxa, deployments) | _boxes(table)
            rolled = roll_up_rows(table, taxa, job.config.rollup_threshold)
            for name, value in _ROLLUP.items():
                made[name] = [found and value(*found) for found in rolled]
            kinds.update(kind or "not classified" for kind in made["observation_type"])
            undated.update(filter(None, made["undated"]))
            seconds = table["predicted_at"].cast(pa.timestamp("s", "UTC"), safe=False)
            copied = {name: table[name] for name, _ in _COPIED}
            copied["predicted_at"] = pa.array(
                [moment and stamp(moment) for moment in seconds.to_pylist()], pa.string()
            )
            arrays = [
                copied[name].cast(SCHEMA.field(name).type)
                if name in copied
                else pa.array(made[name], SCHEMA.field(name).type)
                for name in SCHEMA.names
            ]
            named = zip(SCHEMA, arrays, strict=True)
            arrays = [guard(x) if pa.types.is_string(f.type) else x for f, x in named]
            writer.write_table(pa.table(arrays, schema=SCHEMA))
    left_out = Counter({REASONS[reason]: count for reason, count in undated.items()})
    return Export(str(job.output), kinds, left_out)


def _boxes(table: pa.Table) -> dict[str, list[Any]]:
    """The columns of boxes, null if whole images were scored."""
    if "detection" not in table.column_names:
        return {name: [None] * table.num_rows for name in _BOX}
    boxes = [box and tidy_box(box) for box in table["detection_bbox"].to_pylist()]
    made = {name: table[name].to_pylist() for name in _BOX[:3]}
    return made | {name: [box and box[i] for box in boxes] for i, name in enumerate(_BOX[3:])}


def _derive(
    rows: dict[str, list[Any]], root: Location | None, taxa: Taxa, deployments: Deployments | None
) -> dict[str, list[Any]]:
    names = [name for name in SCHEMA.names if name not in (*dict(_COPIED), *_ROLLUP, *_BOX)]
    made: dict[str, list[Any]] = {name: [] for name in names}
    for uri, status, label, captured_at, top_k in zip(*rows.values(), strict=True):
        line: dict[str, Any] = dict.fromkeys(names)
        line["observation_type"] = OBSERVED.get(status)
        path = root.relative(uri) if root else None
        line["path"] = f"./{path}" if path and is_formula(path) else path
        if label is not None:
            taxon = taxa.of(label)
            line["observation_type"] = taxon.kind
            line["scientific_name"] = taxon.scientific_name
            line["common_name"] = taxon.name
            pairs = [[item["label"], round(item["score"], 6)] for item in top_k or []]
            line["top_k"] = json.dumps(pairs, ensure_ascii=False)
        if deployments is not None:
            dated = deployments.date(path or "", captured_at)
            line["undated"] = dated.reason
            if dated.time is not None:
                line["timestamp"] = stamp(dated.time)
            if dated.deployment is not None:
                line["deployment_id"] = dated.deployment.id
                line["latitude"] = dated.deployment.latitude
                line["longitude"] = dated.deployment.longitude
        for name in names:
            made[name].append(line[name])
    return made
