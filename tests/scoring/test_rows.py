"""Images to rows, where the network's answers are odd."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from monkeyray.arrays import Array
from monkeyray.errors import BundleError
from monkeyray.images.decode import Limits
from monkeyray.runs.workers.fetch import Batch, Fetched
from monkeyray.scoring.rows import OVERFLOW, BatchScorer, PostProcessor, ScoreOptions
from tests.support.bundles import WIDTH, make_bundle


def postprocessor() -> PostProcessor:
    bundle = make_bundle()
    return PostProcessor(
        bundle, ScoreOptions(bundle.views, 2, None, embeddings=True, limits=Limits())
    )


def rows(answers: list[float], monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    """The rows of images of which the network says each of these for its first label."""

    def engine(pixels: Array) -> tuple[Any, Any]:
        logits = np.array([[answer, 0] for answer in answers], np.float32)
        return np.zeros((len(pixels), 1, WIDTH), np.float32), logits

    file = io.BytesIO()
    Image.new("RGB", (300, 200), "green").save(file, "PNG")
    uris = [f"/{number}.png" for number in range(len(answers))]
    nothing = pa.nulls(len(uris))
    plan = pa.table({"uri": uris, "size_bytes": nothing, "version": nothing})
    batch = Batch(plan, [Fetched(file.getvalue(), "v")] * len(uris))
    bundle = make_bundle()
    scorer = BatchScorer(
        bundle, ScoreOptions(bundle.views, 2, None, embeddings=True, limits=Limits())
    )
    columns, pixels, good = batch.decode(224, Limits())
    return scorer(batch, columns, good, *engine(pixels))


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
