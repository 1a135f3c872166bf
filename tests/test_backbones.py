"""The frozen networks: their facts, and where their weights come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monkeyray.backbones import BACKBONES, build_base, import_keras, load_weights
from monkeyray.decode import decode
from monkeyray.engine import Network, TensorFlowEngine
from monkeyray.errors import ConfigError
from monkeyray.storage import Storage

STORAGE = Storage()


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_table_says_what_keras_says(name: str) -> None:
    keras = import_keras()
    backbone = BACKBONES[name]
    model = build_base(name)
    assert model.output_shape == (None, backbone.width)
    assert model.input_shape == (None, backbone.size, backbone.size, 3)
    assert not model.trainable_variables
    family = "mobilenet" if name == "mobilenet" else name
    preprocess = getattr(keras.applications, family).preprocess_input
    pixels = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1).repeat(3, axis=3)
    ours = pixels * backbone.scale + backbone.offset
    np.testing.assert_allclose(ours, preprocess(pixels.copy()), atol=1e-6)


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


def test_weights_of_keras_itself_are_read(tmp_path: Path) -> None:
    model = build_base("mobilenet", seed=3)
    for name in ("mine.weights.h5", "mobilenet_1_0_224_tf_no_top.h5"):
        model.save_weights(tmp_path / "mine.weights.h5")
        (tmp_path / "mine.weights.h5").rename(tmp_path / name)
        if not name.endswith(".weights.h5"):
            with pytest.raises(ConfigError, match="does not fit"):
                load_weights("mobilenet", str(tmp_path / name), STORAGE)
            continue
        read = load_weights("mobilenet", str(tmp_path / name), STORAGE)
        for ours, theirs in zip((read[key] for key in sorted(read)), model.weights, strict=True):
            np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_weights_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    other = tmp_path / "other.weights.h5"
    build_base("inception_v3").save_weights(other)
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
