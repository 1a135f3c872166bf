"""Backbones that come as ONNX files: any network from an image to features.

OpenVINO takes the file into its graph of the whole network. ONNX Runtime, and OpenVINO for a file
that takes one image at a time, run the file alone, with pixels and head computed in NumPy.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from monkeyray.arrays import Array, Floats
from monkeyray.console import silence_stderr
from monkeyray.errors import BundleError, ConfigError, ObjectError
from monkeyray.model.backbones import (
    MOST_BYTES,
    MOST_FEATURES,
    MOST_PIXELS,
    ONNX,
    OnnxBackbone,
    Weights,
)
from monkeyray.model.engines.runtimes import (
    compile_model,
    import_onnxruntime,
    import_openvino,
    reason_of,
    threads,
)
from monkeyray.model.head import head_logits
from monkeyray.model.network import Network, network_graph
from monkeyray.model.onnx_file import OnnxFile, read_onnx
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

ONNXRUNTIME = "onnxruntime"

#: Mean and deviation of the values 0 to 1 of each channel, as networks are trained.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

#: By the value of --pixels: the mean and the deviation of what a network takes.
_PIXELS = {
    "tf": ((0.5,) * 3, (0.5,) * 3),
    "imagenet": _IMAGENET,
    "clip": _CLIP,
    "unit": ((0.0,) * 3, (1.0,) * 3),
    "raw": ((0.0,) * 3, (1 / 255,) * 3),
}

#: Maps a batch as a file wants it, (n, 3, size, size) or (n, size, size, 3), to the file's output.
#: Raises RuntimeError if the file cannot be run on it.
Run = Callable[[Array], Array]


def load_onnx(
    place: Location,
    storage: Storage,
    input_size: int | None = None,
    pixels: str | None = None,
    pool: str | None = None,
) -> tuple[Weights, OnnxBackbone]:
    """The weights and the properties of `--backbone FILE.onnx`, after a trial on two images.

    The options default to the file's metadata `monkeyray.input_size`, `monkeyray.pixels` and
    `monkeyray.pool`. Raises ConfigError if the file cannot be used, or if it does not say how.
    """
    what = f"--backbone {place}"
    try:
        data = storage.read(place, MOST_BYTES).data
    except ObjectError as error:
        raise ConfigError(f"{what} cannot be read: {error}: correct the path") from error
    try:
        file = read_onnx(data)
        size = _size(file, input_size)
        kind = _choose(file, "pixels", pixels, [*_PIXELS])
        if file.dtype == "uint8" and kind != "raw":
            raise ValueError(f"takes uint8 numbers, not those of --pixels {kind}: give raw")
        mean, deviation = _PIXELS[kind]
        pooling = _choose(file, "pool", pool, ["none", "mean", "cls"])
        unpooled = OnnxBackbone(
            size=size,
            width=1,
            scale=tuple(1 / 255 / each for each in deviation),
            offset=tuple(-m / d for m, d in zip(mean, deviation, strict=True)),
        )
        # OpenVINO replaces its thread's stack for signals, and may leave a freed one behind: then
        # an interrupt is a segmentation fault. This thread gets no interrupts.
        with ThreadPoolExecutor(1) as trial:
            spec = trial.submit(_try, file, unpooled, pooling).result()
        return {ONNX: np.frombuffer(data, np.uint8)}, spec
    except ValueError as error:
        raise ConfigError(f"{what} {error}") from error


def _size(file: OnnxFile, given: int | None) -> int:
    found = file.metadata.get("monkeyray.input_size", "")
    size = given or (int(found) if found.isascii() and found.isdecimal() else file.size)
    if size is None:
        raise ValueError("takes images of any size: give --input-size, such as 224")
    if file.size not in (None, size):
        raise ValueError(f"takes images of {file.size} pixels, not {size}: correct --input-size")
    if not 0 < size <= MOST_PIXELS:
        raise ValueError(f"takes images of {size} pixels: at most {MOST_PIXELS} are supported")
    return size


def _choose(file: OnnxFile, option: str, given: str | None, choices: list[str]) -> str:
    value = given or file.metadata.get(f"monkeyray.{option}")
    if value is None and option == "pool":
        return "none"
    if value is None:
        raise ValueError(
            f"does not say how it takes pixels: give --{option} {'|'.join(choices)}, as it was "
            "trained"
        )
    if value not in choices:
        raise ValueError(f"has the metadata monkeyray.{option}={value!r}: give --{option}")
    return value


def _try(file: OnnxFile, unpooled: OnnxBackbone, pool: str) -> OnnxBackbone:
    """The backbone with its width and pooling, which the output for two images shows."""
    runtime = "openvino" if importlib.util.find_spec("openvino") else ONNXRUNTIME
    run, images = runner(file, unpooled.size, runtime), _noise(unpooled.size)
    try:
        output, alone = (_outputs(file, unpooled, run, each) for each in (images, images[:1]))
    except RuntimeError as error:
        raise ValueError(f"cannot be run on images: {reason_of(error)}") from error
    if output.shape[:1] != (2,) or not np.issubdtype(output.dtype, np.floating):
        raise ValueError(
            f"returns {output.dtype} of shape {output.shape} for 2 images: export it with a "
            "dynamic batch or a batch of 1, from an image to its features"
        )
    if not np.isfinite(output).all():
        raise ValueError("returns numbers that are not finite: export it in float32")
    if not _alike(alone, output[:1]):
        raise ValueError("mixes the images of a batch: export it with a fixed batch of 1")
    width, axes = pooling(output.shape[1:], pool)
    if width > MOST_FEATURES:
        raise ValueError(f"has {width:,} features: at most {MOST_FEATURES:,} are supported")
    return replace(unpooled, width=width, pool=pool, axes=axes)


def pooling(shape: tuple[int, ...], pool: str) -> tuple[int, tuple[int, ...]]:
    """The number of features, and the axes of the mean, for an output of shape (n, *shape).

    Raises ValueError if `pool` (none, mean or cls) does not fit it.

    >>> pooling((768,), "none"), pooling((257, 768), "mean"), pooling((2048, 7, 7), "mean")
    ((768, ()), (768, (1,)), (2048, (2, 3)))
    """
    shown = " x ".join(map(str, shape))
    if math.prod(shape) == max(shape, default=0):
        if pool != "none":
            raise ValueError(f"returns {shown} features, already pooled: leave --pool {pool} out")
        return max(shape), ()
    if pool == "none":
        raise ValueError(f"returns {shown} numbers for an image: give --pool mean or cls")
    if len(shape) == 2:
        return shape[1], (1,) if pool == "mean" else ()
    # Maps of a square image are square, which shows where the channels are.
    first, last = shape[1:2] == shape[2:], shape[:1] == shape[1:2]
    if pool == "cls" or len(shape) != 3 or first == last:
        raise ValueError(f"returns {shown} numbers for an image, which --pool {pool} is not for")
    return (shape[0], (2, 3)) if first else (shape[2], (1, 2))


def _noise(size: int) -> Array:
    """Two different images, uint8 (2, size, size, 3)."""
    return np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)


def onnx_model(network: Network) -> Any:
    """The openvino.Model of a network on its ONNX backbone: uint8 pixels (n, views, size, size, 3)
    to features (n, views, width), plus logits if it has a head.

    Raises RuntimeError if OpenVINO cannot read the file, or not in batches, and ValueError if it
    does not have that many features.
    """
    from openvino import opset13 as ops

    spec, file = network.onnx, _file_of(network)
    assert spec is not None
    sides = (spec.size, spec.size)
    pixels = ops.parameter([-1, -1, *sides, 3], np.uint8, name="pixels")
    values = ops.reshape(pixels, np.array([-1, *sides, 3]), False)
    values = ops.convert(values, "f32")
    scale, offset = (np.array(each, np.float32) for each in (spec.scale, spec.offset))
    if file.channels_first:
        values = ops.transpose(values, np.array([0, 3, 1, 2]))
        scale, offset = scale[:, None, None], offset[:, None, None]
    values = ops.add(ops.multiply(values, scale), offset)
    body = _read(file, [-1, 3, *sides] if file.channels_first else [-1, *sides, 3])
    (image,), (result,) = body.get_parameters(), body.get_results()
    values = ops.convert(values, image.get_element_type())
    image.output(0).replace(values.output(0))
    features = result.input_value(0)
    if spec.pool == "cls":
        features = ops.gather(features, np.array(0), np.array(1))
    elif spec.pool == "mean":
        features = ops.reduce_mean(features, np.array(spec.axes), keep_dims=False)
    width = ops.reshape(features, np.array([0, -1]), True).output(0).get_partial_shape()[1]
    if width.is_static and width.get_length() != spec.width:
        raise ValueError(f"has {width.get_length()} features, not {spec.width}")
    count = ops.gather(ops.shape_of(pixels), np.array([0, 1]), np.array(0))
    shape = ops.concat([count, np.array([spec.width])], 0)
    features = ops.reshape(ops.convert(features, "f32"), shape, False)
    return network_graph(features.output(0), [pixels], network)


class OnnxEngine:
    """Runs the file of an ONNX backbone by itself, one image at a time if it takes no more."""

    def __init__(
        self, network: Network, runtime: str, precision: str = "float32", gpu: bool = False
    ) -> None:
        """`runtime`: openvino or onnxruntime. Raises as `runner` does."""
        self._network, self._file = network, _file_of(network)
        self._run = runner(self._file, network.size, runtime, precision, gpu)

    def __call__(self, pixels: Array) -> tuple[Floats, Floats]:
        """See TensorFlowEngine."""
        network, spec = self._network, self._network.onnx
        assert spec is not None
        # The pixels of an empty batch have only one view.
        count, views = len(pixels), len(network.views)
        flat = pixels.reshape(-1, *pixels.shape[2:])
        features = np.empty((count, views, spec.width), np.float32)
        if count:
            features[:] = _pooled(_outputs(self._file, spec, self._run, flat), features.shape, spec)
        if network.head_weights is None:
            return features, np.empty((count, 0), np.float32)
        logits = head_logits(network.head_weights, features.mean(axis=1))
        return features, logits.astype(np.float32)


def takes_batches(network: Network) -> bool:
    """Whether OpenVINO can run an ONNX backbone on several images at once.

    A file of a fixed batch of 1 may have that 1 in its graph, where it fails or, worse, mixes the
    images. So two images together must have the features of each by itself.
    """
    file, spec = _file_of(network), network.onnx
    assert spec is not None
    if file.batch is None:
        return True
    images = _noise(spec.size)
    alone = _outputs(file, spec, runner(file, spec.size, "openvino"), images)
    file = replace(file, batch=None)
    try:
        return _alike(alone, _outputs(file, spec, runner(file, spec.size, "openvino"), images))
    except (RuntimeError, ValueError):
        return False


def _alike(one: Array, other: Array) -> bool:
    """Whether two computations of the same are the same, whatever their order of summation."""
    if one.shape != other.shape:
        return False
    return bool((np.abs(one - other) <= 1e-3 * np.abs(one).max()).all())


def runner(
    file: OnnxFile, size: int, runtime: str, precision: str = "float32", gpu: bool = False
) -> Run:
    """The file in a runtime, openvino or onnxruntime, for images of that size.

    Raises ValueError if it cannot be run, ConfigError if the runtime is not installed or has no
    GPU.
    """
    if runtime == ONNXRUNTIME:
        return _onnxruntime(file, gpu)
    core = import_openvino().Core()
    sides = [3, size, size] if file.channels_first else [size, size, 3]
    try:
        with silence_stderr():
            model = _read(file, [file.batch or -1, *sides])
            compiled = compile_model(core, model, precision, careful=True)
    except RuntimeError as error:
        raise ValueError(f"cannot be run by OpenVINO: {reason_of(error)}") from error
    request = compiled.create_infer_request()

    def run(batch: Array) -> Array:
        request.infer([batch])
        output: Array = request.get_output_tensor(0).data.copy()
        return output

    return run


def _onnxruntime(file: OnnxFile, gpu: bool) -> Run:
    runtime = import_onnxruntime()
    if gpu and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # of CUDA, where pip has installed it
    wanted = "CUDAExecutionProvider" if gpu else "CPUExecutionProvider"
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.log_severity_level = 4
    try:
        with silence_stderr():
            session = runtime.InferenceSession(file.data, options, providers=[wanted])
    # ONNX Runtime's own kinds of error derive from Exception.
    except Exception as error:
        raise ValueError(f"cannot be run by ONNX Runtime: {reason_of(error)}") from error
    if wanted not in session.get_providers():
        raise ConfigError(
            "--gpu: ONNX Runtime cannot use a GPU here: pip install 'monkeyray[onnx]' with the "
            "CUDA and cuDNN that its release needs, or drop --gpu"
        )

    def run(batch: Array) -> Array:
        try:
            return np.asarray(session.run([file.output], {file.input: batch})[0])
        except Exception as error:
            raise RuntimeError(reason_of(error)) from error

    return run


def onnx_refusal(error: Exception) -> BundleError:
    """The error for a bundle's ONNX backbone that a runtime cannot run."""
    return BundleError(
        f"the model's ONNX backbone cannot be run here ({reason_of(error)}): install a newer "
        "OpenVINO or ONNX Runtime"
    )


def _read(file: OnnxFile, shape: list[int]) -> Any:
    """The openvino.Model of the file alone. Raises RuntimeError."""
    frontend = importlib.import_module("openvino.frontend")
    # Otherwise OpenVINO tries its readers of other formats too.
    reader = frontend.FrontEndManager().load_by_framework(ONNX)
    try:
        model = reader.convert(reader.load(io.BytesIO(file.data)))
        model.reshape(shape)
    except Exception as error:  # the readers' own kinds too
        raise RuntimeError(reason_of(error)) from error
    return model


def _outputs(file: OnnxFile, spec: OnnxBackbone, run: Run, images: Array) -> Array:
    """The file's output for one or more images, uint8 (n, size, size, 3)."""
    scale, offset = (np.array(each, np.float32) for each in (spec.scale, spec.offset))
    values = (images * scale + offset).astype(file.dtype)
    if file.channels_first:
        values = values.transpose(0, 3, 1, 2)
    values = np.ascontiguousarray(values)
    if file.batch is None:
        return run(values)
    return np.concatenate([run(each[None]) for each in values])


def _pooled(output: Array, shape: tuple[int, ...], spec: OnnxBackbone) -> Array:
    """The features of the file's output, in that shape."""
    if spec.pool == "cls":
        output = output[:, 0]
    elif spec.pool == "mean":
        output = output.mean(axis=spec.axes, dtype=np.float32)
    return output.reshape(shape)


def _file_of(network: Network) -> OnnxFile:
    return read_onnx(network.backbone_weights[ONNX].tobytes())
