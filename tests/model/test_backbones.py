"""The frozen networks: their facts, and where their weights come from."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import ConfigError
from monkeyray.images.decode import decode
from monkeyray.model.backbones import (
    BACKBONES,
    FineTune,
    build_backbone,
    import_keras,
    last_layers,
    load_weights,
    named_weights,
    parse_fine_tune,
    unfreeze,
)
from monkeyray.model.head import build_head
from monkeyray.model.network import Network, TensorFlowEngine
from monkeyray.storage.store import Storage

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
def built(name: str) -> Any:
    return build_backbone(name)


@every
def test_the_table_agrees_with_keras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = import_keras()
    spec = BACKBONES[name]
    model = built(name)
    assert model.output_shape == (None, spec.width)
    assert model.input_shape == (None, spec.size, spec.size, 3)
    assert not model.trainable_variables
    if not name.startswith("mobilenet_v3"):  # which has no size of its own
        obtain = Mock(side_effect=InterruptedError)
        monkeypatch.setattr("keras.src.applications.imagenet_utils.obtain_input_shape", obtain)
        with pytest.raises(InterruptedError):
            getattr(keras.applications, spec.builder)(weights=None)
        assert obtain.call_args.kwargs["default_size"] == spec.size
    preprocess = getattr(keras.applications, MODULES[name][0]).preprocess_input
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    ours = pixels * spec.scale + spec.offset
    np.testing.assert_allclose(ours, preprocess(pixels.copy()), atol=1e-6)


@every
def test_pixels_are_scaled_once(name: str) -> None:
    """The network does inside what the table leaves out, and nothing else."""
    keras = import_keras()
    spec = BACKBONES[name]
    inside = (spec.scale, spec.offset) == (1.0, 0.0)
    model = built(name)
    assert any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers) == inside
    if not inside:
        return
    builder = getattr(keras.applications, spec.builder)
    bare = builder(
        include_top=False, weights=None, input_shape=(spec.size, spec.size, 3),
        pooling="avg", include_preprocessing=False,
    )  # fmt: skip
    bare.set_weights(model.get_weights())
    pixels = np.random.default_rng(0).integers(0, 256, (2, spec.size, spec.size, 3))
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
    spec = BACKBONES[name]
    pixels = np.random.default_rng(0).integers(
        0, 256, (3, 2, spec.size, spec.size, 3), dtype=np.uint8
    )
    network = Network(name, named_weights(built(name)), ("middle", "whole"))
    features, logits = TensorFlowEngine(network)(pixels)
    assert (features.shape, logits.shape) == ((3, 2, spec.width), (3, 0))
    features, pixels = features.reshape(6, -1), pixels.reshape(6, *pixels.shape[2:])
    scaled = pixels.astype(np.float32) * spec.scale + spec.offset
    expected = np.asarray(built(name)(scaled, training=False))
    assert expected.std() > 0
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())


ODD = """
import os, sys
if sys.argv[1] == "callers":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
import numpy as np
from monkeyray.model.backbones import import_keras, load_weights
from monkeyray.model.network import Network, TensorFlowEngine
from monkeyray.model.head import build_head
from monkeyray.storage.store import Storage

config = import_keras().config
before = config.floatx(), config.image_data_format(), config.epsilon(), config.dtype_policy().name
pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 224, 224, 3), dtype=np.uint8)
weights = load_weights("mobilenet", "imagenet", Storage())
head = build_head(1024, (), 3, dtype="float32").get_weights()
network = Network("mobilenet", weights, ("middle",), dict(zip("ab", head)), (), 3)
np.savez(sys.argv[2], *TensorFlowEngine(network)(pixels))
after = config.floatx(), config.image_data_format(), config.epsilon(), config.dtype_policy().name
assert before == after
print(*before)
sys.stdout.flush()
os._exit(0)  # as a worker is ended
"""


def test_keras_settings_of_the_user_have_no_effect(tmp_path: Path) -> None:
    usual = "float32 channels_last 1e-07 float32"
    odd = "float16 channels_first 0.001 float16"
    started = []
    for name, keras in (("plain", "ours"), ("odd", "ours"), ("odd-callers", "callers")):
        home = tmp_path / name
        home.mkdir()
        if name != "plain":
            (home / "keras.json").write_text(
                '{"floatx": "float16", "epsilon": 1e-3, "image_data_format": "channels_first"}'
            )
        process = subprocess.Popen(
            [sys.executable, "-c", ODD, keras, home / "found.npz"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "KERAS_HOME": str(home), "TMPDIR": str(home)},
        )  # fmt: skip
        started.append((home, process, odd if keras == "callers" else usual))
    found = []
    for home, process, settings in started:
        out, error = process.communicate()
        assert process.returncode == 0, error
        assert out.strip() == settings
        assert not list(home.glob("__autograph*"))
        found.append(list(np.load(home / "found.npz").values()))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_names_of_weights_do_not_depend_on_earlier_models() -> None:
    first, second = built("inception_v3"), build_backbone("inception_v3")
    assert first.layers[1].name != second.layers[1].name
    assert list(named_weights(first)) == list(named_weights(second))
    # The packaged file and a network that is built have the same names, too.
    packaged = load_weights("mobilenet", "imagenet", STORAGE)
    assert sorted(named_weights(built("mobilenet"))) == sorted(packaged)
    assert next(iter(named_weights(built("mobilenet_v3_small")))) == "0000/conv/kernel"
    assert "conv_1/kernel" in {key[5:] for key in named_weights(built("mobilenet_v3_small"))}
    head = named_weights(build_head(4, (3,), 2))
    assert list(head)[::2] == ["0000/head/dense_0/kernel", "0002/head/dense_1/kernel"]


def test_packaged_weights_are_as_good_as_the_published_ones(photos: Path) -> None:
    published = str(photos.parent / "weights" / "mobilenet_1_0_224_imagenet_notop.weights.h5")
    paths = [path for label in sorted(photos.glob("n*")) for path in sorted(label.iterdir())[:6]]
    pixels = np.stack([decode(path.read_bytes(), 224).pixels for path in paths])
    features = []
    for source in ("imagenet", published):
        weights = load_weights("mobilenet", source, STORAGE)
        vectors, _ = TensorFlowEngine(Network("mobilenet", weights, ("middle",)))(pixels)
        vectors = vectors[:, 0]
        features.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    cosine = (features[0] * features[1]).sum(axis=1)
    assert len(paths) == 60
    assert cosine.min() >= 0.9999


def test_unavailable_weights_are_named(tmp_path: Path) -> None:
    other = tmp_path / "other.weights.h5"
    built("mobilenet_v3_small").save_weights(other)
    with pytest.raises(ConfigError, match=r"other\.weights\.h5 does not fit mobilenet"):
        load_weights("mobilenet", str(other), STORAGE)
    with pytest.raises(ConfigError, match="imagenet, none, or a Keras file"):
        load_weights("mobilenet", str(tmp_path / "model.pkl"), STORAGE)


@pytest.mark.parametrize("before", [None, "jax"])
def test_the_callers_environment_is_restored(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if before is not None:
        monkeypatch.setenv("KERAS_BACKEND", before)
    keras = Mock()

    def imported(name: str) -> Mock:
        keras.backend.backend.return_value = os.environ["KERAS_BACKEND"]
        return keras

    monkeypatch.setattr(importlib, "import_module", imported)
    assert import_keras("openvino") is keras
    keras.config.set_image_data_format.assert_called_once_with("channels_first")
    assert os.environ.get("KERAS_BACKEND") == before


def test_download_failure_asks_for_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    import_keras()
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", no_network)
    with pytest.raises(ConfigError, match=r"\(OSError\).*--weights PATH"):
        load_weights("mobilenet_v3_small", "imagenet", STORAGE)


def kernels(model: Any) -> list[Any]:
    """The layers that fine-tuning may train, told by their weights and not by their class."""
    return [
        layer
        for layer in model.layers
        if {"kernel", "bias"} & {variable.name for variable in layer.weights}
    ]


def block_of(layer: Any) -> str:
    """What a layer's own name says about its block."""
    found = re.match(
        r"conv_(?:dw|pw)_(\d+)|(block_\d+)_|(expanded_conv(?:_\d+)?)_(?=[a-z])|"
        r"(block\d+[a-z])_|(conv\d_block\d+)_",
        layer.name,
    )
    return found[found.lastindex or 0] if found else str(layer.name)


@every
def test_blocks_match_the_names_of_layers(name: str) -> None:
    model = built(name)
    count = MODULES[name][1]
    blocks: list[list[Any]] = []
    for number in range(1, count + 1):
        layers = last_layers(model, name, f"{number}-blocks")
        added = layers[: len(layers) - sum(len(block) for block in blocks)]
        assert added
        assert layers == [*added, *(layer for block in blocks for layer in block)]
        blocks.insert(0, added)
    assert [layer for block in blocks for layer in block] == kernels(model)
    with pytest.raises(ConfigError, match=rf"{name} has {count} blocks to train"):
        last_layers(model, name, f"{count + 1}-blocks")
    if name == "inception_v3":
        return
    told = [{block_of(layer) for layer in block} for block in blocks]
    assert all(len(names) == 1 for names in told)
    assert len(set().union(*told)) == count


def test_blocks_of_inception_end_where_its_branches_meet() -> None:
    """Every layer of a block leads to the block's own end, and none of an earlier block does."""
    model = built("inception_v3")
    ends = [layer for layer in model.layers if re.fullmatch(r"mixed\d+", layer.name)]
    known: list[Any] = []
    for number, end in enumerate(ends):
        inputs = import_keras().Model(model.input, end.output).layers
        below = [layer for layer in kernels(model) if layer in inputs]
        rest = last_layers(model, "inception_v3", f"{len(ends) - number}-blocks")
        assert known + rest == kernels(model)
        assert set(map(id, below)) >= set(map(id, known))
        known = below
    assert known == kernels(model)
    assert len(last_layers(model, "inception_v3", "1-block")) == 9


@every
def test_layers_are_counted_from_the_end(name: str) -> None:
    model = built(name)
    possible = kernels(model)
    for count in (1, 2, 20, len(possible)):
        assert last_layers(model, name, str(count)) == possible[-count:]
    with pytest.raises(ConfigError, match=rf"{name} has {len(possible)} layers to train"):
        last_layers(model, name, str(len(possible) + 1))


@every
def test_only_named_layers_are_trained(name: str) -> None:
    keras = import_keras()
    import tensorflow as tf

    model = built(name)
    layers = last_layers(model, name, "2-blocks")
    unfreeze(model, layers)
    before = named_weights(model)
    pixels = np.random.default_rng(0).random((2, *model.input_shape[1:]), np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(pixels, training=True) ** 2)
    wanted = [variable.path for layer in layers for variable in layer.weights]
    assert [variable.path for variable in model.trainable_variables] == wanted
    gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
    assert all(gradient is not None for gradient in gradients)
    # Even in training nothing has moved the statistics of BatchNormalization.
    for key, array in named_weights(model).items():
        np.testing.assert_array_equal(array, before[key])
    frozen = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert frozen
    assert not any(layer.trainable for layer in frozen)
    model.trainable = False  # as the other tests expect it


@given(st.integers(1, 9999), st.sampled_from(["", "-block", "-blocks"]))
def test_fine_tune_is_a_number_of_layers_or_blocks(count: int, form: str) -> None:
    assert parse_fine_tune(f"{count}{form}") == FineTune(count, blocks=bool(form))


@pytest.mark.parametrize(
    "spec",
    ["", "0", "0-blocks", "-1", "2 blocks", "2blocks", "all", "1.5", "²", "٣", "20\n", "1" * 9],
)
def test_anything_else_says_what_to_write(spec: str) -> None:
    with pytest.raises(ConfigError, match="such as 20, or of blocks, such as 2-blocks"):
        parse_fine_tune(spec)


@given(st.text(max_size=8))
def test_any_text_gives_at_most_a_config_error(spec: str) -> None:
    try:
        parsed = parse_fine_tune(spec)
    except ConfigError:
        return
    assert parsed.count >= 1
    assert re.fullmatch("[0-9]+(-blocks?)?", spec)
