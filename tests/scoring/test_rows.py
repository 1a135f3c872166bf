"""Images to rows, where the network's answers are odd."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from monkeyray.arrays import Array, Flags
from monkeyray.errors import BundleError
from monkeyray.images.decode import Limits
from monkeyray.runs.workers.batches import Batch
from monkeyray.runs.workers.fetch import Fetched
from monkeyray.scoring.allowed import Allowed
from monkeyray.scoring.rows import OVERFLOW, BatchScorer, PostProcessor, ScoreOptions
from tests.support.bundles import WIDTH, make_bundle


def postprocessor() -> PostProcessor:
    bundle = make_bundle()
    return PostProcessor(
        bundle, ScoreOptions(bundle.views, 2, None, embeddings=True, limits=Limits())
    )


def rows(
    answers: list[float], monkeypatch: pytest.MonkeyPatch, allowed: Allowed | None = None
) -> pa.Table:
    """The rows of images of which the network says each of these for its first label."""

    def engine(pixels: Array) -> tuple[Any, Any]:
        logits = np.array([[answer, 0] for answer in answers], np.float32)
        return np.zeros((len(pixels), 1, WIDTH), np.float32), logits

    file = io.BytesIO()
    Image.new("RGB", (300, 200), "green").save(file, "PNG")
    uris = [f"/{number}.png" for number in range(len(answers))]
    nothing = pa.nulls(len(uris))
    plan = pa.table({"uri": uris, "size_bytes": nothing, "version": nothing, "site": uris})
    batch = Batch(plan, [Fetched(file.getvalue(), "v")] * len(uris))
    bundle = make_bundle()
    options = ScoreOptions(bundle.views, 2, None, embeddings=True, limits=Limits(), allowed=allowed)
    scorer = BatchScorer(bundle, options)
    columns, pixels, good = batch.decode(224, Limits())
    return scorer(batch, columns, good, *engine(pixels))


def test_labels_are_allowed_by_the_columns_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    only: dict[tuple[str, ...], Flags] = {
        ("/0.png", "", ""): np.array([True, True]), ("/1.png", "", ""): np.array([False, True]),
        ("", "", ""): np.array([True, False]),
    }  # fmt: skip
    found = rows([3, 3, np.nan, -3], monkeypatch, Allowed(only, None, None, "0")).to_pylist()
    first, second = make_bundle().labels
    assert [row["label"] for row in found] == [first, first, None, first]
    assert [row["excluded_label"] for row in found] == [None, None, None, second]
    del only["", "", ""]
    found = rows([3, 3, np.nan, -3], monkeypatch, Allowed(only, None, None, "0")).to_pylist()
    assert [row["label"] for row in found] == [first, second, None, second]
    assert [row["excluded_label"] for row in found] == [None, first, None, None]
    assert "excluded_label" not in rows([3], monkeypatch).column_names


def test_an_image_that_overflows_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rows([1, np.inf, -1, np.nan], monkeypatch).to_pylist()
    assert [row["status"] for row in found] == ["ok", "overflow", "ok", "overflow"]
    assert [row["label"] for row in found] == [
        make_bundle().labels[0],
        None,
        make_bundle().labels[1],
        None,
    ]
    assert [row["embedding"] is None for row in found] == [False, True, False, True]
    assert (found[1]["status"], found[1]["error"]) == OVERFLOW
    assert found[1]["width"] == 300
    for few in (rows([np.nan], monkeypatch), rows([np.nan] * 63, monkeypatch)):
        assert set(few["status"].to_pylist()) == {"overflow"}
        assert few["score"].null_count == len(few)
    late = postprocessor()
    columns: dict[str, Any] = {"status": ["ok"] * 99, "error": [None] * 99}
    zeros = np.zeros((99, 2), np.float32)
    assert late(columns, np.arange(1), np.zeros((1, WIDTH)), zeros[:1]).all()
    assert not late(columns, np.arange(99), np.zeros((99, WIDTH)), zeros * np.nan).any()


def test_overflow_on_every_image_blames_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="no finite numbers for any of the first 64 images"):
        rows([np.nan, np.inf] * 32, monkeypatch)
