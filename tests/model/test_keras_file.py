"""Files that Keras wrote: every kind is read as it is, and what is none is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from monkeyray.errors import ConfigError
from monkeyray.model.backbones import (
    BACKBONES,
    Weights,
    build_backbone,
    import_keras,
    load_weights,
    named_weights,
)
from monkeyray.model.keras_file import read_keras_file
from monkeyray.storage.store import Storage

STORAGE = Storage()


def fill(model: Any) -> Any:
    """Other values in every array, also in those that Keras starts with zeros and ones."""
    shapes = [variable.shape for variable in model.weights]
    model.set_weights([np.random.default_rng(i).random(s) for i, s in enumerate(shapes)])
    return model


def network(name: str, **options: Any) -> Any:
    """A network of keras.applications with other values in it."""
    keras = import_keras()
    backbone = BACKBONES[name]
    shape = (backbone.size, backbone.size, 3)
    options = {"include_top": False, **options}
    builder = getattr(keras.applications, backbone.builder)
    return fill(builder(weights=None, input_shape=shape, **options))


@cache
def built(name: str) -> Any:
    return network(name)


def write_as_keras_2(model: Any, group: Any) -> None:
    """What save_weights of Keras 2 wrote, and keras.applications publishes to this day."""
    layers = model.layers
    group.attrs["layer_names"] = [layer.name.encode() for layer in layers]
    group.attrs["backend"] = b"tensorflow"
    group.attrs["keras_version"] = b"2.4.0"
    for layer in sorted(layers, key=lambda layer: str(layer.name)):
        inner = group.create_group(layer.name)
        names = [f"{layer.name}/{variable.name}:0".encode() for variable in layer.weights]
        inner.attrs["weight_names"] = names
        for name, variable in zip(names, layer.weights, strict=True):
            inner[name] = np.asarray(variable)


def legacy(model: Any, path: Path) -> Path:
    with h5py.File(path, "w") as file:
        write_as_keras_2(model, file)
    return path


@lru_cache(maxsize=2)
def backbone(name: str) -> Any:
    """What files are read into; its layers have other numbers than those of `network`."""
    return build_backbone(name)


def read(name: str, path: Path) -> Weights:
    model = backbone(name)
    model.set_weights([np.zeros(variable.shape) for variable in model.weights])
    read_keras_file(path.read_bytes(), model, f"--weights {path}", name)
    return named_weights(model)


def same(read: Weights, model: Any) -> None:
    assert len(read) == len(model.weights)
    for key, variable in zip(sorted(read), model.weights, strict=True):
        np.testing.assert_array_equal(read[key], np.asarray(variable), err_msg=key)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_files_that_keras_publishes_and_writes_are_read(name: str, tmp_path: Path) -> None:
    # As in a new process: layers without a name are conv2d, conv2d_1 …, and those of the network
    # that is read into have higher numbers.
    import_keras().utils.clear_session(free_memory=False)
    model = network(name)
    assert name != "inception_v3" or model.layers[1].name == "conv2d"
    path = legacy(model, tmp_path / f"{name}_tf_dim_ordering_tf_kernels_notop.h5")
    old = read(name, path)
    same(old, model)
    model.save_weights(tmp_path / "without-pooling.weights.h5")
    new = read(name, tmp_path / "without-pooling.weights.h5")
    same(new, model)
    assert set(old) == set(new)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling_does_not_matter(pooling: str, tmp_path: Path) -> None:
    model = network("mobilenet", pooling=pooling)
    model.save_weights(tmp_path / "m.weights.h5")
    same(read("mobilenet", tmp_path / "m.weights.h5"), model)
    path = legacy(model, tmp_path / "mobilenet_1_0_224_tf_no_top.h5")
    same(read("mobilenet", path), model)


def test_the_kind_of_file_is_recognised_by_content(tmp_path: Path) -> None:
    model = built("mobilenet")
    model.save_weights(tmp_path / "m.weights.h5")
    path = (tmp_path / "m.weights.h5").rename(tmp_path / "mobilenet_1_0_224_tf_no_top.h5")
    same(load_weights("mobilenet", str(path), STORAGE), model)
    path = legacy(model, tmp_path / "old.weights.h5").rename(tmp_path / "old.hdf5")
    same(read("mobilenet", path), model)


def test_a_whole_model_of_keras_2_and_the_old_writer_of_keras_3_are_read(tmp_path: Path) -> None:
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    model = built("mobilenet")
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        write_as_keras_2(model, file.create_group("model_weights"))
        file["optimizer_weights/Adam/m"] = np.zeros((3, 3, 3, 32), np.float32)
    with h5py.File(tmp_path / "keras3.h5", "w") as file:
        save_weights_to_hdf5_group(file, model)
    for file_name in ("whole.h5", "keras3.h5"):
        same(read("mobilenet", tmp_path / file_name), model)


def test_the_state_of_an_optimiser_is_ignored(tmp_path: Path) -> None:
    model = network("mobilenet_v3_small")
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "m.weights.h5")
    same(read("mobilenet_v3_small", tmp_path / "m.weights.h5"), model)


@pytest.mark.parametrize("name", ["mobilenet", "mobilenet_v3_small"])
def test_a_file_with_its_classifier_names_the_one_to_use(name: str, tmp_path: Path) -> None:
    model = network(name, include_top=True, classes=1000)
    model.save_weights(tmp_path / "top.weights.h5")
    legacy(model, tmp_path / "top.h5")
    for path in tmp_path.iterdir():
        with pytest.raises(
            ConfigError, match=rf"holds {name} with its classification head.*_notop\.h5"
        ):
            read(name, path)


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = legacy(built("mobilenet_v2"), tmp_path / "other_no_top.h5")
    with pytest.raises(ConfigError, match=r"other_no_top\.h5 does not fit mobilenet .*--backbone"):
        read("mobilenet", path)


def test_the_right_arrays_in_the_wrong_layers_are_refused(tmp_path: Path) -> None:
    path = legacy(built("mobilenet"), tmp_path / "m_no_top.h5")
    with h5py.File(path, "a") as file:
        names = list(file.attrs["layer_names"])
        file.attrs["layer_names"] = names[::-1]
    with pytest.raises(ConfigError, match=r"does not fit mobilenet without its head: .*mismatch"):
        read("mobilenet", path)


def test_other_files_than_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_bytes(b"<html>404</html>")
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["table"] = np.zeros(3)
    whole = tmp_path / "cut.h5"
    whole.write_bytes(legacy(built("mobilenet"), tmp_path / "m.h5").read_bytes()[:100_000])
    for name, message in {
        "text.h5": "is not HDF5",
        "table.h5": "holds no weights of a Keras network",
        "cut.h5": "does not fit mobilenet without its head: .*truncated",
        "model.keras": r"save_weights\('x\.weights\.h5'\)",
        "no such.h5": "cannot be read",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_weights("mobilenet", str(tmp_path / name), STORAGE)


def test_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m_no_top.h5"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match=f"has {2**40} bytes, the limit is {2**30}"):
        load_weights("mobilenet", str(path), STORAGE)


def outside_link(file: Any, key: str, secret: Path) -> None:
    file[key] = h5py.ExternalLink(str(secret), "/")


def outside_tree(file: Any, key: str, secret: Path) -> None:
    top = key.split("/")[0]
    del file[top]
    outside_link(file, top, secret)


def soft_link(file: Any, key: str, secret: Path) -> None:
    outside_link(file, "elsewhere", secret)
    file[key] = h5py.SoftLink("/elsewhere/x")


def outside_bytes(file: Any, key: str, secret: Path) -> None:
    file.create_dataset(key, (32,), np.float32, external=[(str(secret), 0, 128)])


def virtual(file: Any, key: str, secret: Path) -> None:
    layout = h5py.VirtualLayout((32,), np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "x", shape=(32,))
    file.create_virtual_dataset(key, layout)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("plant", [outside_link, outside_tree, soft_link, outside_bytes, virtual])
@pytest.mark.parametrize("kind", ["weights.h5", "notop.h5"])
def test_external_links_are_not_opened(
    plant: Callable[[Any, str, Path], None], kind: str, tmp_path: Path
) -> None:
    # Whoever opens a pipe that nobody writes to waits until the test is stopped.
    secret = tmp_path / "secret"
    os.mkfifo(secret)
    path = tmp_path / f"m.{kind}"
    if kind == "notop.h5":
        key = "conv1_bn/conv1_bn/gamma:0"
        legacy(built("mobilenet"), path)
    else:
        key = "layers/batch_normalization/vars/0"
        built("mobilenet").save_weights(path)
    with h5py.File(path, "a") as file:
        del file[key]
        plant(file, key, secret)
    with pytest.raises(ConfigError, match=r"is refused: /.* (link|other files).*as Keras wrote"):
        read("mobilenet", path)


def test_circular_links_are_followed_once(tmp_path: Path) -> None:
    path = legacy(built("mobilenet"), tmp_path / "m_no_top.h5")
    with h5py.File(path, "a") as file:
        file["conv1/again"] = file["/"]
    same(read("mobilenet", path), built("mobilenet"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_non_finite_weights_are_refused(value: float, tmp_path: Path) -> None:
    path = legacy(built("mobilenet"), tmp_path / "m_no_top.h5")
    with h5py.File(path, "a") as file:
        key = "conv_pw_7/conv_pw_7/kernel:0"
        kernel = file[key][:].astype(np.float64)
        kernel[0, 0, 3, 4] = value
        del file[key]
        file[key] = kernel
    with pytest.raises(ConfigError, match=r"conv_pw_7/kernel has values that are not finite"):
        read("mobilenet", path)
