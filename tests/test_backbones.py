"""The frozen networks: their facts, and where their weights come from."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monkeyray.backbones import (
    BACKBONES,
    build_base,
    import_keras,
    load_weights,
    named_weights,
)
from monkeyray.decode import decode
from monkeyray.engine import Network, TensorFlowEngine
from monkeyray.errors import ConfigError
from monkeyray.head import build_top
from monkeyray.storage import Storage

STORAGE = Storage()


#: Where keras.applications has each network, and how many blocks fine-tuning can name.
MODULES = {
    "mobilenet": ("mobilenet", 14),
    "mobilenet_v2": ("mobilenet_v2", 19),
    "mobilenet_v3_small": ("mobilenet_v3", 13),
    "mobilenet_v3_large": ("mobilenet_v3", 17),
    "efficientnet_v2_b0": ("efficientnet_v2", 23),
    "resnet50_v2": ("resnet_v2", 17),
    "inception_v3": ("inception_v3", 11),
}
every = pytest.mark.parametrize("name", list(BACKBONES))


@cache
def base(name: str) -> Any:
    return build_base(name)


@every
def test_the_table_says_what_keras_says(name: str) -> None:
    keras = import_keras()
    backbone = BACKBONES[name]
    model = base(name)
    assert model.output_shape == (None, backbone.width)
    assert model.input_shape == (None, backbone.size, backbone.size, 3)
    assert not model.trainable_variables
    whole = getattr(keras.applications, backbone.builder)(weights=None)
    assert whole.input_shape in ((None, backbone.size, backbone.size, 3), (None, None, None, 3))
    preprocess = getattr(keras.applications, MODULES[name][0]).preprocess_input
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    ours = pixels * backbone.scale + backbone.offset
    np.testing.assert_allclose(ours, preprocess(pixels.copy()), atol=1e-6)


@every
def test_pixels_are_scaled_once(name: str) -> None:
    """The network does inside what the table leaves out, and nothing else."""
    keras = import_keras()
    backbone = BACKBONES[name]
    inside = (backbone.scale, backbone.offset) == (1.0, 0.0)
    model = base(name)
    assert any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers) == inside
    if not inside:
        return
    builder = getattr(keras.applications, backbone.builder)
    bare = builder(
        include_top=False, weights=None, input_shape=(backbone.size, backbone.size, 3),
        pooling="avg", include_preprocessing=False,
    )  # fmt: skip
    bare.set_weights(model.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (2, backbone.size, backbone.size, 3))
    if name.startswith("efficientnet"):
        mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        scaled = (pixels / 255 - mean) / deviation
    else:
        scaled = pixels / 127.5 - 1.0
    ours = np.asarray(model(pixels, training=False))
    assert ours.std() > 0
    assert (
        np.abs(ours - np.asarray(model(scaled, training=False))).max() > 1e-3 * np.abs(ours).max()
    )
    theirs = np.asarray(bare(scaled, training=False))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(ours).max())


@every
def test_the_engine_runs_it(name: str) -> None:
    backbone = BACKBONES[name]
    pixels = np.random.default_rng(0).integers(
        0, 256, (3, backbone.size, backbone.size, 3), dtype=np.uint8
    )
    features, _ = TensorFlowEngine(Network(name, named_weights(base(name))))(pixels)
    scaled = pixels.astype(np.float32) * backbone.scale + backbone.offset
    expected = np.asarray(base(name)(scaled, training=False))
    assert expected.std() > 0
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


def test_names_of_weights_do_not_depend_on_what_was_built_before() -> None:
    first, second = build_base("inception_v3"), build_base("inception_v3")
    assert first.layers[1].name != second.layers[1].name
    assert list(named_weights(first)) == list(named_weights(second))
    # The packaged file and a network that is built have the same names, too.
    packaged = load_weights("mobilenet", "imagenet", STORAGE)
    assert sorted(named_weights(base("mobilenet"))) == sorted(packaged)
    assert next(iter(named_weights(base("mobilenet_v3_small")))) == "0000/conv/kernel"
    assert "conv_1/kernel" in {key[5:] for key in named_weights(base("mobilenet_v3_small"))}
    top = named_weights(build_top(4, (3,), 2))
    assert list(top)[::2] == ["0000/top/dense_0/kernel", "0002/top/dense_1/kernel"]


def test_packaged_weights_are_as_good_as_the_published_ones(photos: Path) -> None:
    published = str(photos.parent / "weights" / "mobilenet_1_0_224_imagenet_notop.weights.h5")
    paths = [path for label in sorted(photos.glob("n*")) for path in sorted(label.iterdir())[:6]]
    pixels = np.stack([decode(path.read_bytes(), 224).pixels for path in paths])
    features = []
    for source in ("imagenet", published):
        weights = load_weights("mobilenet", source, STORAGE)
        vectors, _ = TensorFlowEngine(Network("mobilenet", weights))(pixels)
        features.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    cosine = (features[0] * features[1]).sum(axis=1)
    assert len(paths) == 60
    assert cosine.min() >= 0.9999


def test_weights_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    other = tmp_path / "other.weights.h5"
    base("inception_v3").save_weights(other)
    with pytest.raises(ConfigError, match=r"other\.weights\.h5 does not fit mobilenet"):
        load_weights("mobilenet", str(other), STORAGE)
    with pytest.raises(ConfigError, match="imagenet, none, or a Keras file"):
        load_weights("mobilenet", str(tmp_path / "model.pkl"), STORAGE)


def test_no_network_means_give_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    import_keras()
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", no_network)
    with pytest.raises(ConfigError, match=r"\(OSError\).*--weights PATH"):
        load_weights("inception_v3", "imagenet", STORAGE)
