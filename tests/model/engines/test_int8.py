"""The engine on a backbone in int8, and what is no such backbone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monkeyray.arrays import Array
from monkeyray.errors import BundleError
from monkeyray.images.decode import decode
from monkeyray.model.bundle import int8_sha256, load_bundle
from monkeyray.model.engines.choice import EngineChoice
from monkeyray.model.engines.int8 import int8_model, to_arrays
from monkeyray.model.engines.openvino import OpenVinoEngine
from monkeyray.model.head import head_logits
from monkeyray.model.network import Network
from monkeyray.scoring.features import FeatureCache
from monkeyray.scoring.job import run_identity, score_options
from monkeyray.scoring.options import ScoreConfig
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.summary import Trained

VIEWS = ("middle", "middle-mirrored")

# In a process that has OpenVINO and nothing else that a network could be built with.
ALONE = """
import pickle, sys
sys.modules |= dict.fromkeys(["nncf", "tensorflow", "keras", "torch"])
from monkeyray.model.engines.openvino import OpenVinoEngine
network, pixels, out = pickle.load(open(sys.argv[1], "rb"))
engine = OpenVinoEngine(network, "int8")
pickle.dump([engine(pixels), engine(pixels[1:2]), engine(pixels[:0])], open(out, "wb"))
"""


@pytest.fixture(scope="module")
def network(quantised: Trained) -> Network:
    bundle = load_bundle(quantised.uri, Storage(), int8=True)
    return replace(bundle.network(bundle.views), views=VIEWS)


@pytest.fixture(scope="module")
def pixels(photos: Path) -> Array:
    paths = sorted((photos / "n5").iterdir())[-5:]
    return np.stack([decode(path.read_bytes(), 224, views=VIEWS).pixels for path in paths])


def test_int8_runs_on_openvino_only_and_is_close_to_float32(
    network: Network, pixels: Array, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(pickle.dumps((network, pixels, str(tmp_path / "out"))))
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "in")], check=True)
    (features, logits), single, empty = pickle.loads((tmp_path / "out").read_bytes())
    assert features.dtype == logits.dtype == np.float32
    assert (features.shape, logits.shape) == ((5, 2, 1024), (5, 3))
    assert [array.shape for array in empty] == [(0, 2, 1024), (0, 3)]
    exact, _ = OpenVinoEngine(network)(pixels)
    lengths = np.linalg.norm(exact, axis=-1) * np.linalg.norm(features, axis=-1)
    cosines = (exact * features).sum(axis=-1) / lengths
    # Above what bfloat16 has, and by far above what nobody corrects has, 0.95.
    assert 0.99 < cosines.min() < 0.99999
    assert network.head_weights is not None
    expected = head_logits(network.head_weights, features.mean(axis=1))
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    np.testing.assert_allclose(single[0], features[1:2], atol=1e-4)


def test_a_head_with_layers_before_the_softmax(network: Network, pixels: Array) -> None:
    random = np.random.default_rng(2)
    shapes = {"00/kernel": (1024, 16), "01/bias": (16,), "02/kernel": (16, 4), "03/bias": (4,)}
    head = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    deep = replace(network, head_weights=head, head_widths=(16,), labels=4)
    features, logits = OpenVinoEngine(deep, "int8")(pixels)
    expected = head_logits(head, features.mean(axis=1))
    assert (expected.std(axis=0) > 0.1).all()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


def test_an_invalid_graph_is_refused(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino
    from openvino import opset13 as ops

    assert network.int8 is not None
    core = openvino.Core()
    graph, constants = (network.int8[name].tobytes() for name in ("graph", "constants"))
    pixels = ops.parameter([-1, -1, 224, 224, 3], np.uint8)
    openvino.save_model(openvino.Model([pixels.output(0)], [pixels]), tmp_path / "other.xml")
    other = (tmp_path / "other.xml").read_bytes()
    cases = (
        (b"<!doctype html><p>404", constants, "cannot run the model's backbone in int8"),
        (graph, constants[: len(constants) // 2], "cannot run the model's backbone in int8"),
        (graph.replace(b'type="Convolution"', b'type="Unheard"'), constants, "cannot run"),
        (other, b"", r"is damaged: it maps .* to \[\('u8', \[-1, -1, 224, 224, 3\]\)\]"),
    )
    for xml, its, words in cases:
        with pytest.raises(BundleError, match=words):
            int8_model(replace(network, int8=to_arrays(xml, its)), core)

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("Exception from core.cpp:117:\nCheck 'scale' failed\n\n")

    monkeypatch.setattr(openvino.Core, "compile_model", refuse)
    with pytest.raises(BundleError, match=r"cannot run .* \(Check 'scale' failed\): install"):
        OpenVinoEngine(network, "int8")


def test_precision_is_part_of_the_identity_of_runs_and_caches(
    quantised: Trained, network: Network
) -> None:
    def identity(precision: str) -> dict[str, Any]:
        config = ScoreConfig(images="i", model="m", predictions="p", precision=precision)
        bundle = load_bundle(quantised.uri, Storage(), int8=precision == "int8")
        return run_identity(config, bundle, score_options(config, bundle), None)

    usual, int8 = identity("float32"), identity("int8")
    bundle = load_bundle(quantised.uri, Storage(), int8=True)
    assert {key for key in int8 if int8[key] != usual.get(key)} == {"engine", "int8"}
    assert (int8["engine"], int8["int8"]) == ("openvino-int8", int8_sha256(bundle))

    choice = EngineChoice("openvino", "int8")
    one = FeatureCache(Location.of("f"), Storage(), network, engine=choice)
    other = replace(network, int8=to_arrays(b"other", b""))
    assert (
        one.place
        != replace(one, network=other).place
        != replace(one, engine=EngineChoice("openvino")).place
    )
