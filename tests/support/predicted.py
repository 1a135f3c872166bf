"""Predictions without a model: hand-written rows, published as by a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from monkeyray.images.boxes import BOX_FIELDS
from monkeyray.runs.lease import hold
from monkeyray.runs.place import create_run
from monkeyray.runs.plan import collect
from monkeyray.scoring.schema import prediction_schema
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

MODEL_ID = "ab" * 32
AT = datetime(2026, 3, 4, 5, 6, 7, 890_000, UTC)


def scored(uri: str, *scores: tuple[str, float], **rest: Any) -> dict[str, Any]:
    """A row with labels and scores, the best first."""
    label, score = scores[0]
    listed = [{"label": name, "score": value} for name, value in scores]
    return {"uri": uri, "label": label, "score": score, "top_k": listed, **rest}


def box(
    number: int | None, category: str | None, conf: float | None = None, *bbox: float
) -> dict[str, Any]:
    """What a row of a run with detections says of its box."""
    return {
        "detection": number,
        "detection_category": category,
        "detection_conf": conf,
        "detection_bbox": list(bbox) or None,
    }


def predict(
    place: Path | str,
    rows: Sequence[Mapping[str, Any]],
    *,
    images: str,
    storage: Storage | None = None,
    sizes: Sequence[int] | None = None,
    finish: bool = True,
    extra: Mapping[str, pa.DataType] | None = None,
    **identity: Any,
) -> None:
    """Publish rows as a finished run, or without its end: then the last shard has no file. Rows
    that say of which box they are make it a run with detections.

    `extra`: columns that a later version adds, null here.
    """
    storage = storage or Storage()
    names = [row["uri"] for row in rows]
    plan: dict[str, Any] = {
        "uri": pa.array(names, pa.string()),
        "size_bytes": pa.array([3] * len(names), pa.int64()),
        "version": pa.array(["1"] * len(names), pa.string()),
    }
    if any("detection_category" in row for row in rows):
        identity.setdefault("detections", {"sha256": "0", "threshold": 0.2, "padding": 0.1})
        plan |= {name: pa.array([row.get(name) for row in rows], t) for name, t in BOX_FIELDS}
    listing = collect([pa.table(plan)])
    assert listing is not None
    with hold(Location.of(str(place)), storage, print) as lease:
        cut = list(sizes or [len(names)])
        whole = {"images": images, "threshold": None, **identity}
        run = create_run(Location.of(str(place)), lease, whole, listing, cut)
        following = iter(rows)
        for shard in range(len(cut) if finish else len(cut) - 1):
            planned = run.plan.read(shard)
            schema = prediction_schema(planned.schema)
            for name, kind in (extra or {}).items():
                schema = schema.insert(4, pa.field(name, kind))
            default = {"status": "ok", "size_bytes": 3, "model_id": MODEL_ID, "predicted_at": AT}
            made = [{**default, **next(following)} for _ in range(planned.num_rows)]
            run.publish(shard, planned, pa.Table.from_pylist(made, schema=schema))
        if finish:
            run.finish(lease)


def assert_scored_alike(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """Two rows have the same labels in the same order, and scores that differ in the last digits
    alone; or neither has any."""
    if expected["label"] is None:
        assert row["score"] is row["ood_score"] is row["top_k"] is None
        return
    assert [best["label"] for best in row["top_k"]] == [x["label"] for x in expected["top_k"]]
    scores, were = ([best["score"] for best in each["top_k"]] for each in (row, expected))
    np.testing.assert_allclose(scores, were, atol=1e-5)
    assert row["score"] == scores[0]
    np.testing.assert_allclose(row["ood_score"], expected["ood_score"], atol=1e-3)
