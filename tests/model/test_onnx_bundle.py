"""Bundles with a backbone that came as an ONNX file, from training to scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import monkeyray
from monkeyray.errors import BundleError
from monkeyray.model.backbones import ONNX, OnnxBackbone
from monkeyray.model.bundle import Bundle, describe, save_bundle
from monkeyray.model.network import Network
from monkeyray.scoring.evaluation.evaluate import evaluate
from monkeyray.scoring.features import FeatureCache
from monkeyray.scoring.options import EvaluateConfig, RescoreConfig
from monkeyray.scoring.rescore import rescore
from monkeyray.statistics.outliers import fit_outliers
from monkeyray.storage.keys import sha256
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.bundles import edit, load
from tests.support.onnx_files import SIZE, WIDTH, transformer

STORAGE = Storage()
FILE = transformer().SerializeToString()
SPEC = OnnxBackbone(SIZE, WIDTH, (1 / 255,) * 3, (0.0,) * 3, "mean", (1,))


def bundle(data: bytes = FILE, spec: OnnxBackbone = SPEC) -> Bundle:
    few = np.eye(4, WIDTH, dtype=np.float32)
    outliers = fit_outliers({1: few}, np.arange(4) % 2, np.arange(4) // 2).to_arrays()
    head = {"0": np.ones((WIDTH, 2), np.float32), "1": np.zeros(2, np.float32)}
    weights = {ONNX: np.frombuffer(data, np.uint8)}
    network = Network(ONNX, weights, ("middle",), head, (), 2, onnx=spec)
    model = describe(
        network,
        labels=[{"index": i, "label": label, "name": None} for i, label in enumerate("ab")],
        outliers=outliers,
        calibration={"1": {"temperature": 1.5, "thresholds": None}},
        rest={},
    )
    return Bundle(model, weights, head, outliers)


def test_it_holds_the_file_itself(tmp_path: Path) -> None:
    save_bundle(str(tmp_path), STORAGE, bundle(), "", "{}")
    (file,) = tmp_path.glob("backbone-*.onnx")
    assert file.read_bytes() == FILE
    found = load(tmp_path)
    assert found.model["weights"]["backbone"] == sha256(FILE)
    assert found.onnx == found.network(found.views).onnx == SPEC
    assert found.backbone_weights[ONNX].tobytes() == FILE
    file.write_bytes(FILE[:-1] + b"x")
    with pytest.raises(BundleError, match=r"backbone-\w+\.onnx does not match its hash"):
        load(tmp_path)
    # The next one takes its place, as of any bundle.
    for _ in range(2):
        save_bundle(str(tmp_path), STORAGE, bundle(FILE + b"\x70\0"), "", "{}")
    assert not file.exists()


def test_properties_that_decide_features() -> None:
    other = replace(SPEC, offset=(-1.0,) * 3)
    one, two = bundle(), bundle(spec=other)
    assert one.model_id != two.model_id
    assert one.model["weights"] == two.model["weights"]
    assert one.embedding_identity() != two.embedding_identity()
    # As a run has it when it is read again.
    assert json.loads(json.dumps(one.embedding_identity())) == one.embedding_identity()
    places = {
        FeatureCache(Location.of("f"), STORAGE, each.network(each.views)).place
        for each in (one, two, bundle(FILE + b"\x70\0"))
    }
    assert len(places) == 3


def change(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def do(model: dict[str, Any]) -> None:
        *outer, last = path
        for key in outer:
            model = model[key]
        model[last] = to

    return do


@pytest.mark.parametrize(
    "broken",
    [
        change("input_size", to=0),
        change("input_size", to=10**9),
        change("feature_width", to=10**9),
        change("preprocessing", "scale", to=1.0),
        change("preprocessing", "scale", to=[1.0, 1.0]),
        change("preprocessing", "scale", to=[1.0, 1.0, float("nan")]),
        change("preprocessing", "offset", to=["x", 0.0, 0.0]),
        change("preprocessing", "pool", to="max"),
        change("preprocessing", "axes", to=[0]),
        change("preprocessing", "axes", to=None),
    ],
)
def test_invalid_preprocessing_is_refused(
    broken: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    save_bundle(str(tmp_path), STORAGE, bundle(), "", "{}")
    edit(tmp_path, broken, sign=True)
    with pytest.raises(BundleError, match="preprocessing is not that of an ONNX backbone"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("data", "spec", "words"),
    [
        (b"<html>", SPEC, "its backbone is not an ONNX file, or is damaged"),
        (FILE, replace(SPEC, size=64), "takes images of 32 pixels, not 64"),
    ],
)
def test_a_file_that_is_not_that_backbone(
    data: bytes, spec: OnnxBackbone, words: str, tmp_path: Path
) -> None:
    save_bundle(str(tmp_path), STORAGE, bundle(data, spec), "", "{}")
    with pytest.raises(BundleError, match=words):
        load(tmp_path)


def test_another_name_for_the_backbone(tmp_path: Path) -> None:
    save_bundle(str(tmp_path), STORAGE, bundle(), "", "{}")
    edit(tmp_path, change("backbone", to="mobilenet"), sign=True)
    with pytest.raises(BundleError, match="different preprocessing"):
        load(tmp_path)


# Leaves a file behind where it is imported, so that no except hides it.
BLOCKED = """
from pathlib import Path
Path(__file__ + ".tried").touch()
raise ImportError("blocked")
"""

PREDICT = """
import sys, json, monkeyray
model = monkeyray.load_model(sys.argv[1])
print(json.dumps(model.predict(sys.argv[2:])["label"].to_pylist()))
"""


def test_the_whole_path(few: Path, tmp_path: Path) -> None:
    quiet = monkeyray.StoreConfig(quiet=True)
    (tmp_path / "vit.onnx").write_bytes(FILE)
    trained = monkeyray.train(
        images=str(few), model=str(tmp_path / "model"), backbone=str(tmp_path / "vit.onnx"),
        pixels="imagenet", pool="mean", views=2, embed_workers=1, store=quiet,
    )  # fmt: skip
    model = json.loads((tmp_path / "model" / "model.json").read_text())
    assert (model["backbone"], model["weights_source"]) == ("onnx", "vit.onnx")
    assert str(tmp_path) not in json.dumps(model["training"])
    assert (model["input_size"], model["feature_width"]) == (SIZE, WIDTH)

    # Where there is neither TensorFlow nor Keras.
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in ("tensorflow", "keras"):
        (blocked / f"{name}.py").write_text(BLOCKED)
    without = {**os.environ, "PYTHONPATH": f"{blocked}:{os.environ.get('PYTHONPATH', '')}"}
    score = ["-m", "monkeyray", "score", "--images", str(few), "--model", trained.uri]
    score += ["--predictions", str(tmp_path / "out"), "--embeddings", "--workers", "1", "--quiet"]
    subprocess.run([sys.executable, *score], check=True, env=without)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    some = [row["uri"] for row in rows[::6]]
    command = [sys.executable, "-c", PREDICT, trained.uri, *some]
    done = subprocess.run(command, check=True, env=without, capture_output=True, text=True)
    assert json.loads(done.stdout) == [row["label"] for row in rows[::6]]
    assert not list(blocked.glob("*.tried"))

    assert {row["status"] for row in rows} == {"ok"}
    assert len(rows) == 42
    assert {len(row["embedding"]) for row in rows} == {WIDTH}
    assert len({row["label"] for row in rows}) == 3
    again = str(tmp_path / "again")
    out = str(tmp_path / "out")
    rescore(RescoreConfig(predictions=out, model=trained.uri, output=again, workers=1, store=quiet))
    rescored = pq.read_table(again).to_pylist()
    assert [row["label"] for row in rescored] == [row["label"] for row in rows]
    config = EvaluateConfig(
        output=str(tmp_path / "evaluated"), model=trained.uri, images=str(few), workers=1,
        features=str(tmp_path / "model" / "features"), store=quiet,
    )  # fmt: skip
    content = evaluate(config).content
    assert content["data"]["opened"] == 0
    right = np.mean([row["label"] == row["uri"].split("/")[-2] for row in rows])
    assert content["metrics"]["accuracy"] == pytest.approx(right)
