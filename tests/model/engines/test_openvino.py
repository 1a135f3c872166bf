from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monkeyray.arrays import Array
from monkeyray.images.decode import decode
from monkeyray.model.backbones import (
    BACKBONES,
    Weights,
    build_backbone,
    load_weights,
    named_weights,
)
from monkeyray.model.engines.openvino import OpenVinoEngine, cached_graph
from monkeyray.model.network import Network, TensorFlowEngine
from monkeyray.storage.store import Storage

VIEWS = ("middle", "middle-mirrored")

# In a process of its own, where Keras is not on TensorFlow yet.
ALONE = """
import pickle, sys
from monkeyray.model.engines import openvino
networks, pixels, out = pickle.load(open(sys.argv[1], "rb"))
for network in networks:
    openvino.OpenVinoEngine(network)
import keras
assert keras.backend.backend() == "openvino"
del openvino._export
engines = [openvino.OpenVinoEngine(network) for network in networks]  # from the cache
found = [(engine(pixels), engine(pixels[1:2])) for engine in engines]
pickle.dump(found, open(out, "wb"))
"""


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pixels(photos: Path) -> Array:
    paths = sorted((photos / "n5").iterdir())[:5]
    return np.stack([decode(path.read_bytes(), 224, views=VIEWS).pixels for path in paths])


def network_of(name: str) -> Network:
    """A network with a small head."""
    width = BACKBONES[name].width
    weights: Weights
    if BACKBONES[name].packaged:
        weights = load_weights(name, "imagenet", Storage())
    else:
        weights = named_weights(build_backbone(name, seed=1))
    random = np.random.default_rng(2)
    head: Weights = {
        "00/kernel": random.normal(size=(width, 16)).astype(np.float32) / 10,
        "01/bias": random.normal(size=16).astype(np.float32),
        "02/kernel": random.normal(size=(16, 4)).astype(np.float32),
        "03/bias": random.normal(size=4).astype(np.float32),
    }
    return Network(name, weights, VIEWS, head, (16,), 4)


def assert_equal(found: Any, expected: Any) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == np.float32
        # 1e-4 of the largest, since random weights give features of any size.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_both_engines_agree(pixels: Array, tmp_path: Path) -> None:
    networks = list(map(network_of, ("mobilenet", "mobilenet_v3_small", "efficientnet_v2_b0")))
    (tmp_path / "in").write_bytes(pickle.dumps((networks, pixels, str(tmp_path / "out"))))
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "in")], check=True)
    found = pickle.loads((tmp_path / "out").read_bytes())
    for network, (together, single) in zip(networks, found, strict=True):
        expected = TensorFlowEngine(network)(pixels)
        assert expected[0].std() > 1e-12
        assert_equal(together, expected)
        assert_equal(single, [array[1:2] for array in expected])


def test_graph_is_converted_if_keras_already_uses_tensorflow(
    pixels: Array,
) -> None:
    network = network_of("mobilenet")
    expected = TensorFlowEngine(network)(pixels)
    engine = OpenVinoEngine(network)
    assert_equal(engine(pixels), expected)
    first = engine(pixels[:2])
    engine(pixels[3:])
    assert_equal(first, [array[:2] for array in expected])


def test_without_a_head_there_are_features_alone(pixels: Array) -> None:
    weights = load_weights("mobilenet", "imagenet", Storage())
    engine = OpenVinoEngine(Network("mobilenet", weights, VIEWS))
    features, logits = engine(pixels)
    assert features.shape == (5, 2, 1024)
    assert logits.shape == (5, 0)
    features, logits = engine(pixels[:0])
    assert features.shape == (0, 2, 1024)
    assert logits.shape == (0, 0)


def test_openvino_sends_no_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it would, it keeps a name for this user in a file first."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    plain, ours = (
        "import openvino",
        "from monkeyray.model.engines.runtimes import import_openvino as o; o()",
    )
    for code, told in ((ours, []), (plain, ["intel"])):
        # Nor does this test: there is no way to the Internet through that proxy.
        nowhere = {**os.environ, "https_proxy": "http://127.0.0.1:9"}
        subprocess.run(
            [sys.executable, "-c", f"{code}; import os; assert 'CI' not in os.environ"],
            check=True,
            env=nowhere,
        )
        assert [path.name for path in tmp_path.iterdir()] == told


@pytest.mark.parametrize("kind", [TensorFlowEngine, OpenVinoEngine])
def test_mixed_precision_points_the_same_way(kind: Any, pixels: Array) -> None:
    network = network_of("mobilenet")
    exact, _ = TensorFlowEngine(network)(pixels)
    mixed, logits = kind(network, "mixed")(pixels)
    assert mixed.dtype == logits.dtype == np.float32
    assert np.abs(mixed - exact).max() > 0
    cosine = (
        (mixed * exact).sum(-1) / np.linalg.norm(mixed, axis=-1) / np.linalg.norm(exact, axis=-1)
    )
    assert cosine.min() > 0.99


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "monkeyray" / "graphs"


def never() -> tuple[bytes, bytes]:
    raise AssertionError("built again")


def make(text: str) -> Callable[[], tuple[bytes, bytes]]:
    return lambda: (text.encode(), b"\0" * 100)


def test_a_graph_is_built_once(folder: Path) -> None:
    assert cached_graph("a", make("one")) == (b"one", b"\0" * 100)
    assert cached_graph("a", never) == (b"one", b"\0" * 100)
    assert cached_graph("b", make("two"))[0] == b"two"


_WRONG_SIZE = hashlib.sha256(b"\xff" * 8).digest() + b"\xff" * 8


@pytest.mark.parametrize("damage", [b"", b"short", _WRONG_SIZE, None])
def test_a_damaged_graph_is_rebuilt(damage: bytes | None, folder: Path) -> None:
    cached_graph("a", make("one"))
    (file,) = folder.iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data) if damage is None else damage)
    assert cached_graph("a", make("new"))[0] == b"new"
    assert cached_graph("a", never)[0] == b"new"


def test_the_cache_keeps_the_most_recently_used_graphs(folder: Path) -> None:
    for index in range(12):
        cached_graph(f"{index}", make("x"))
        if index:
            cached_graph("0", never)
    assert len(list(folder.iterdir())) == 8
    cached_graph("0", never)
    assert cached_graph("1", make("again"))[0] == b"again"


def test_unwritable_cache_folder_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_graph("a", make("one"))[0] == b"one"
    assert cached_graph("a", make("two"))[0] == b"two"
