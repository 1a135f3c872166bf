"""Backbones from ONNX files: what they are taken for, the engines that run them, their bundle."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from monkeyray.errors import BundleError, ConfigError
from monkeyray.images.decode import decode
from monkeyray.model.backbones import ONNX, OnnxBackbone, load_weights
from monkeyray.model.engines.choice import EngineChoice
from monkeyray.model.engines.onnx import OnnxEngine, load_onnx, pooling
from monkeyray.model.engines.openvino import OpenVinoEngine
from monkeyray.model.engines.quantise import quantise_backbone
from monkeyray.model.head import head_logits
from monkeyray.model.network import Network
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.keras_onnx import export_onnx
from tests.support.onnx_files import SIZE, WIDTH, means, model, transformer

OPENVINO, RUNTIME = EngineChoice("openvino"), EngineChoice("onnxruntime")
PIXELS = np.random.default_rng(1).integers(0, 256, (5, 2, SIZE, SIZE, 3), np.uint8)


def load(folder: Path, made: onnx.ModelProto, **options: Any) -> Network:
    """The network of a file with two views and a small head."""
    (folder / "it.onnx").write_bytes(made.SerializeToString())
    place = Location.parse(str(folder / "it.onnx"))
    weights, spec = load_onnx(place, Storage(), **options)
    random = np.random.default_rng(2)
    head = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in {"0": (spec.width, 6), "1": (6,), "2": (6, 4), "3": (4,)}.items()
    }
    return Network(ONNX, weights, ("middle", "middle-mirrored"), head, (6,), 4, onnx=spec)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize(
    ("shape", "baked", "together"),
    [
        (("n", 3, SIZE, SIZE), False, True),
        (("n", SIZE, SIZE, 3), False, True),
        (("n", "h", "w", 3), False, True),
        ((1, 3, SIZE, SIZE), False, True),
        ((1, 3, SIZE, SIZE), True, False),
        ((1, SIZE, SIZE, 3), True, False),
    ],
)
def test_both_runtimes_compute_the_same(
    pool: str, shape: tuple[Any, ...], baked: bool, together: bool, tmp_path: Path
) -> None:
    made = transformer(shape, baked=baked)
    network = load(tmp_path, made, pixels="imagenet", pool=pool, input_size=SIZE)
    reference = ReferenceEvaluator(made)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    scaled = ((PIXELS[3, 1] / 255 - mean) / deviation).astype(np.float32)
    image = scaled.transpose(2, 0, 1) if shape[1] == 3 else scaled
    (tokens,) = reference.run(None, {"image": image[None]})
    expected = tokens[0].mean(axis=0) if pool == "mean" else tokens[0, 0]
    engines = [choice.build(network) for choice in (OPENVINO, RUNTIME)]
    assert isinstance(engines[0], OpenVinoEngine if together else OnnxEngine)
    for engine in engines:
        features, logits = engine(PIXELS)
        assert features.dtype == logits.dtype == np.float32
        assert features.shape == (5, 2, WIDTH)
        np.testing.assert_allclose(features[3, 1], expected, atol=1e-4)
        assert network.head_weights is not None
        theirs = head_logits(network.head_weights, features.mean(axis=1))
        np.testing.assert_allclose(logits, theirs, atol=1e-4)
        # As for a batch without a readable image.
        assert [array.shape for array in engine(PIXELS[:0, :1])] == [(0, 2, WIDTH), (0, 4)]
    headless, logits = OPENVINO.build(replace(network, head_weights=None))(PIXELS)
    np.testing.assert_allclose(headless, features, atol=1e-4)
    assert logits.shape == (5, 0)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ("tf", [-1, 1, 0.2]),
        ("imagenet", [-0.485 / 0.229, 0.544 / 0.224, 0.194 / 0.225]),
        ("clip", [-0.48145466 / 0.26862954, 0.5421725 / 0.26130258, 0.19178929 / 0.27577711]),
        ("unit", [0, 1, 0.6]),
        ("raw", [0, 255, 153]),
    ],
)
@pytest.mark.parametrize("shape", [("n", 3, 8, 8), ("n", 8, 8, 3)])
def test_what_pixels_become(
    pixels: str, expected: list[float], shape: tuple[Any, ...], tmp_path: Path
) -> None:
    network = load(tmp_path, means(shape), pixels=pixels)
    image = np.empty((1, 2, 8, 8, 3), np.uint8)
    image[:] = [0, 255, 153]
    for choice in (OPENVINO, RUNTIME):
        features, _ = choice.build(network)(image)
        np.testing.assert_allclose(features[0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.DOUBLE], ids=str
)
def test_the_types_of_numbers(kind: int, tmp_path: Path) -> None:
    network = load(tmp_path, means(kind=kind), pixels="raw")
    found = [choice.build(network)(PIXELS)[0] for choice in (OPENVINO, RUNTIME)]
    for features in found:
        np.testing.assert_allclose(features, PIXELS.mean(axis=(2, 3)), rtol=1e-3)


def test_metadata_is_enough_and_options_override_it(tmp_path: Path) -> None:
    says = {"monkeyray.pixels": "unit", "monkeyray.input_size": "32", "monkeyray.pool": "cls"}
    made = transformer((1, 3, "h", "w"), metadata=says)
    spec = load(tmp_path, made).onnx
    assert spec == OnnxBackbone(SIZE, WIDTH, (1 / 255,) * 3, (0.0,) * 3, "cls", ())
    spec = load(tmp_path, made, pixels="tf", pool="mean").onnx
    assert spec is not None
    assert (spec.offset, spec.pool, spec.axes) == ((-1.0,) * 3, "mean", (1,))


@pytest.mark.parametrize(
    ("made", "options", "words"),
    [
        (means(), {}, r"does not say how it takes pixels: give --pixels tf\|imagenet\|clip"),
        (means(("n", 3, "h", "w")), {"pixels": "tf"}, "give --input-size, such as 224"),
        (means(), {"pixels": "tf", "input_size": 99}, f"images of {SIZE} pixels, not 99"),
        (means(("n", 3, 5000, 5000)), {"pixels": "tf"}, "at most 4096 are supported"),
        (transformer(), {"pixels": "tf"}, "returns 17 x 24 numbers .*: give --pool mean or cls"),
        (means(), {"pixels": "tf", "pool": "cls"}, "returns 3 features, .* leave --pool cls out"),
        (means(kind=TensorProto.UINT8), {"pixels": "tf"}, "takes uint8 numbers.*: give raw"),
        (means(metadata={"monkeyray.pixels": "bgr"}), {}, "='bgr': give --pixels"),
        (transformer(baked=True), {"pixels": "tf", "pool": "cls"}, r"shape \(1, 17, 24\) for 2 im"),
    ],
)
def test_what_is_unclear_is_refused(
    made: onnx.ModelProto, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"--backbone .*it\.onnx .*{words}") as caught:
        load(tmp_path, made, **options)
    assert "\n" not in str(caught.value)


def graph(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    last = nodes[-1].output[0]
    return model([*nodes], {"image": ("n", 3, 8, 8)}, [last], constants, {})


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (graph(helper.make_node("Unheard", ["image"], ["x"])), "cannot be run by OpenVINO: .*Unhe"),
        (graph(helper.make_node("ArgMax", ["image"], ["x"], axis=1)), "returns int64 of shape"),
        (graph(helper.make_node("Log", ["image"], ["x"])), "returns numbers that are not finite"),
        (graph(helper.make_node("Flatten", ["image"], ["x"], axis=0)), "of shape .* for 2 images"),
        (
            graph(
                helper.make_node("ReduceMean", ["image"], ["mean"], axes=[0]),
                helper.make_node("Sub", ["image", "mean"], ["off"]),
                helper.make_node("Flatten", ["off"], ["x"]),
            ),
            "mixes the images of a batch: export it with a fixed batch of 1",
        ),
        (
            graph(
                helper.make_node("Flatten", ["image"], ["flat"]),
                helper.make_node("Tile", ["flat", "times"], ["x"]),
                times=np.array([1, 400]),
            ),
            "has 76,800 features: at most 65,536 are supported",
        ),
    ],
)
def test_unusable_backbones_are_refused(made: onnx.ModelProto, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"it\.onnx .*{words}") as caught:
        load(tmp_path, made, pixels="tf")
    assert "\n" not in str(caught.value)


def test_files_that_are_absent_or_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--backbone .*no\.onnx cannot be read: .*: correct the"):
        load_onnx(Location.parse(str(tmp_path / "no.onnx")), Storage())
    monkeypatch.setattr("monkeyray.model.engines.onnx.MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"cannot be read: .*1000"):
        load(tmp_path, transformer())


@pytest.mark.parametrize("shape", [(17, 17, 17), (3, 4, 5), (2, 2, 2, 2), (4, 4)], ids=str)
def test_pooling_that_is_unclear(shape: tuple[int, ...]) -> None:
    if shape == (4, 4):  # tokens are always rows
        assert pooling(shape, "mean") == (4, (1,))
        return
    with pytest.raises(ValueError, match="numbers for an image"):
        pooling(shape, "mean")


def test_pooling_of_maps() -> None:
    assert pooling((7, 7, 2048), "mean") == (2048, (1, 2))
    assert pooling((2048, 1, 1), "none") == (2048, ())
    with pytest.raises(ValueError, match="which --pool cls is not for"):
        pooling((7, 7, 2048), "cls")


def test_int8(tmp_path: Path) -> None:
    network = load(tmp_path, transformer(), pixels="imagenet", pool="mean")
    int8 = replace(network, int8=quantise_backbone(network, PIXELS))
    features, logits = EngineChoice("openvino", "int8").build(int8)(PIXELS)
    exact, _ = OPENVINO.build(network)(PIXELS)
    assert (features.shape, logits.shape) == (exact.shape, (5, 4))
    cosine = (features * exact).sum(-1) / np.linalg.norm(features, axis=-1)
    assert 0.9 < (cosine / np.linalg.norm(exact, axis=-1)).min() < 0.999999


def test_a_file_that_a_bundle_describes_wrongly(tmp_path: Path) -> None:
    network = load(tmp_path, transformer(), pixels="tf", pool="mean")
    assert network.onnx is not None
    for change in ({"width": 5}, {"pool": "none", "axes": ()}, {"size": 64}):
        for choice in (OPENVINO, RUNTIME):
            wrong = replace(network, onnx=replace(network.onnx, **change))
            with pytest.raises(BundleError, match="ONNX backbone cannot be run here") as caught:
                choice.build(wrong)
            assert "\n" not in str(caught.value)


def test_mobilenet_is_what_keras_made_of_it(photos: Path, tmp_path: Path) -> None:
    """With its real weights, as Keras exports it."""
    weights = load_weights("mobilenet", "imagenet", Storage())
    export_onnx(weights, tmp_path / "mobilenet.onnx")
    place = Location.parse(str(tmp_path / "mobilenet.onnx"))
    theirs, spec = load_onnx(place, Storage(), pixels="tf")
    views = ("middle", "middle-mirrored")
    paths = sorted((photos / "n5").iterdir())[:5]
    pixels = np.stack([decode(path.read_bytes(), 224, views=views).pixels for path in paths])
    expected, _ = OpenVinoEngine(Network("mobilenet", weights, views))(pixels)
    for choice in (OPENVINO, RUNTIME):
        features, _ = choice.build(Network(ONNX, theirs, views, onnx=spec))(pixels)
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


def test_the_signal_stack_is_never_freed_memory(tmp_path: Path) -> None:
    class Stack(ctypes.Structure):
        _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

    for pool in ("mean", None, None):
        with contextlib.suppress(ConfigError):  # None is refused, after a trial
            load(tmp_path, transformer(), pixels="tf", pool=pool)
        gc.collect()
        stack = Stack()
        ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
        ranges = (line.split()[0].split("-") for line in open("/proc/self/maps"))  # noqa: SIM115
        assert any(int(low, 16) <= stack.start < int(high, 16) for low, high in ranges)
