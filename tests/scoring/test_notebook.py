from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import monkeyray.scoring.notebook
from monkeyray.errors import BundleError, ConfigError, InputError
from monkeyray.model.bundle import Bundle
from monkeyray.scoring.notebook import Model, load_model
from monkeyray.scoring.stage import Scorer
from monkeyray.training.summary import Trained
from tests.support.predicted import assert_scored_alike

EXACT = ("uri", "status", "error", "label", "decision", "width", "height", "captured_at")


@pytest.fixture(scope="module")
def model(trained: Trained) -> Model:
    return load_model(trained.uri)


@pytest.fixture(scope="module")
def rows(embedded: Path) -> list[dict[str, Any]]:
    """What `score` says of the photographs and the two broken files."""
    tables = [pq.read_table(path) for path in sorted(embedded.glob("*.parquet"))]
    found: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return found


def assert_alike(row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {name: row[name] for name in EXACT if name != "uri"} == {
        name: expected[name] for name in EXACT if name != "uri"
    }
    assert_scored_alike(row, expected)


def test_rows_are_those_of_score(model: Model, rows: list[dict[str, Any]]) -> None:
    # Broken ones among the others, and not in the order of the names.
    bad = [row for row in rows if row["status"] != "ok"]
    expected = [*rows[5:8], bad[1], *rows[40:36:-1], bad[0], rows[20]]
    table = model.predict([row["uri"] for row in expected], embeddings=True, batch_size=4)
    assert table.column_names == [
        "uri", "status", "error", "label", "score", "decision", "ood_score", "top_k", "width",
        "height", "captured_at", "embedding",
    ]  # fmt: skip
    assert {row["status"] for row in bad} == {"empty", "unsupported"}
    for row, was in zip(table.to_pylist(), expected, strict=True):
        assert_alike(row, was)
        assert row["uri"] == was["uri"]
        if was["embedding"] is None:
            assert row["embedding"] is None
        else:
            np.testing.assert_allclose(row["embedding"], was["embedding"], atol=1e-4)
    frame = table.to_pandas()
    assert frame["label"].isna().sum() == 2
    assert model.predict(frame["uri"][:2]).column("uri").to_pylist() == list(frame["uri"][:2])


def test_images_as_a_notebook_has_them(model: Model, rows: list[dict[str, Any]]) -> None:
    # So small that as a JPEG too it is decoded at its full size.
    (row,) = [row for row in rows if row["uri"].endswith("/n0020.jpg")]
    path = Path(row["uri"])
    data = path.read_bytes()
    with Image.open(path) as image:
        array = np.asarray(image.convert("RGB"))
        cut = Image.open(io.BytesIO(data[: len(data) // 2]))
        given = [
            str(path), None, path, data, np.zeros((0, 4, 3), np.uint8), bytearray(data), image, cut,
            path / "none.jpg", path.as_uri(), array,
        ]  # fmt: skip
        table = model.predict(given, batch_size=3)
    assert table.column_names[-1] == "captured_at"
    bad = {1: "missing", 4: "empty", 7: "unreadable", 8: "missing"}
    for place, found in enumerate(table.to_pylist()):
        assert (found["uri"] is not None) == isinstance(given[place], (str, Path)), place
        if place in bad:
            assert (found["status"], found["label"]) == (bad[place], None), place
            assert found["error"]
        else:
            assert_alike(found, row)
    for one in (str(path), data, array, pa.array([data])):
        assert model.predict(one).select(["label", "score"]).to_pylist() == [
            {"label": row["label"], "score": pytest.approx(row["score"], abs=1e-5)}
        ]


def test_images_are_drawn_a_batch_at_a_time(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []
    seen: list[tuple[int, int]] = []

    def images() -> Iterator[bytes]:
        for _ in range(5):
            drawn.append(b"")
            yield b""

    scorer = model._scorer

    def scored(batch: Any, *decoded: Any) -> pa.Table:
        seen.append((len(drawn), len(batch.fetched)))
        return scorer(batch, *decoded)

    monkeypatch.setattr(model, "_scorer", scored)
    assert model.predict(images(), batch_size=2).num_rows == 5
    assert seen == [(2, 2), (4, 2), (5, 1)]
    with pytest.raises(InputError, match="image 1 is a int"):
        model.predict([b"", 1])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="batch-size is 0"):
        model.predict(b"", batch_size=0)
    nothing = model.predict([], embeddings=True)
    assert (nothing.num_rows, nothing.schema.field("embedding").type.list_size) == (0, 1024)


def test_a_model_is_loaded_as_asked(
    trained: Trained,
    rows: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Bundle, "unlike", lambda self, padding: f"trained with {padding}")
    model = load_model(
        Path(trained.uri), model_id=trained.model["model_id"][:8], top_k="all", threshold=0.0
    )
    assert (model.labels, model.model_id) == (["n0", "n5", "n9"], trained.model["model_id"])
    assert repr(model) == f"<Model {model.model_id[:12]}: n0, n5, n9>"
    (row,) = model.predict(rows[5]["uri"]).to_pylist()
    assert (len(row["top_k"]), row["decision"]) == (3, "accepted")
    assert "trained with None" in capsys.readouterr().err


def test_labels_that_live_here(
    trained: Trained, rows: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = rows[5]
    other = next(label for label in ("n0", "n5", "n9") if label != row["label"])
    (tmp_path / "here.csv").write_text(f"label\n{other}\n{other}0\n")
    model = load_model(trained.uri, allowed=tmp_path / "here.csv")
    (found,) = model.predict(row["uri"]).to_pylist()
    assert (found["label"], found["excluded_label"]) == (other, row["label"])
    assert f"{other}0 (the model has {other})" in capsys.readouterr().err
    (tmp_path / "sites.csv").write_text(f"label,site\n{other},A\n{row['label']},B\n")
    with pytest.raises(InputError, match="the images have no such column"):
        load_model(trained.uri, allowed=tmp_path / "sites.csv").predict(b"")
    scorer = Scorer(trained.uri, allowed=tmp_path / "sites.csv")
    table = scorer(pa.table({"uri": [row["uri"]] * 2, "site": ["A", "B"]}))
    assert table["label"].to_pylist() == [other, row["label"]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_id": "00000000"}, "not 00000000"),
        ({"top_k": 0}, "top-k is '0'"),
        ({"threshold": 2}, "threshold is 2"),
        ({"engine": "torch"}, "engine is 'torch'"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"precision": "int8", "engine": "tensorflow"}, "--engine tensorflow excludes it"),
        ({"views": 2}, "--views 2: this model was made for 1"),
    ],
)
def test_unloadable_models(trained: Trained, options: dict[str, Any], words: str) -> None:
    with pytest.raises((BundleError, ConfigError), match=words):
        load_model(trained.uri, **options)


def test_keras_on_another_backend_is_refused(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras = SimpleNamespace(backend=SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setattr(monkeyray.scoring.notebook, "import_keras", lambda: keras)
    with pytest.raises(ConfigError, match="runs on jax in this process: set KERAS_BACKEND="):
        load_model(trained.uri)


def test_int8_says_nearly_the_same(quantised: Trained, rows: list[dict[str, Any]]) -> None:
    uris = [row["uri"] for row in rows if row["status"] == "ok"][:8]
    exact, found = (
        load_model(quantised.uri, precision=precision).predict(uris, embeddings=True)
        for precision in ("float32", "int8")
    )
    assert found["label"] == exact["label"]
    assert found["embedding"] != exact["embedding"]
    np.testing.assert_allclose(found["score"].to_numpy(), exact["score"].to_numpy(), atol=0.05)
