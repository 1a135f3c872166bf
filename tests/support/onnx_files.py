"""ONNX files made by hand: a tiny vision transformer with random weights, and odd ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Of the transformer: side of its input, of a patch, and length of a token.
SIZE, PATCH, WIDTH = 32, 8, 24
TOKENS = (SIZE // PATCH) ** 2 + 1

IMAGE = ("n", 3, SIZE, SIZE)


def transformer(
    shape: tuple[Any, ...] = IMAGE,
    *,
    baked: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """One block of a vision transformer: an image to tokens (n, TOKENS, WIDTH), the first of which
    is of the class. `baked`: it takes one image at a time, whatever its shape says."""
    random = np.random.default_rng(5)
    constants: dict[str, Any] = {
        name: random.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in {
            "patches": (WIDTH, 3, PATCH, PATCH), "class": (1, 1, WIDTH),
            "position": (1, TOKENS, WIDTH), "query": (WIDTH, WIDTH), "key": (WIDTH, WIDTH),
            "value": (WIDTH, WIDTH), "up": (WIDTH, 2 * WIDTH), "down": (2 * WIDTH, WIDTH),
        }.items()
    }  # fmt: skip
    constants |= {
        "one": np.ones(WIDTH, np.float32), "first": np.array([0]), "unit": np.array([1, WIDTH]),
        "flat": np.array([0, WIDTH, -1]), "single": np.array([1, 1, WIDTH]),
    }  # fmt: skip
    node = helper.make_node
    image = "image"
    nodes = []
    if shape[1] != 3:
        nodes.append(node("Transpose", [image], ["turned"], perm=[0, 3, 1, 2]))
        image = "turned"
    nodes += [
        node("Conv", [image, "patches"], ["map"], strides=[PATCH, PATCH]),
        node("Reshape", ["map", "flat"], ["rows"]),
        node("Transpose", ["rows"], ["cut"], perm=[0, 2, 1]),
        node("Shape", ["cut"], ["sides"]),
        node("Gather", ["sides", "first"], ["count"]),
        node("Concat", ["count", "unit"], ["wanted"], axis=0),
        node("Expand", ["class", "single" if baked else "wanted"], ["classes"]),
        node("Concat", ["classes", "cut"], ["joined"], axis=1),
        node("Add", ["joined", "position"], ["x"]),
        node("LayerNormalization", ["x", "one"], ["normal"]),
        *(node("MatMul", ["normal", name], [name[0]]) for name in ("query", "key", "value")),
        node("Transpose", ["k"], ["turned_key"], perm=[0, 2, 1]),
        node("MatMul", ["q", "turned_key"], ["products"]),
        node("Softmax", ["products"], ["attention"]),
        node("MatMul", ["attention", "v"], ["seen"]),
        node("Add", ["x", "seen"], ["y"]),
        node("MatMul", ["y", "up"], ["wide"]),
        node("Relu", ["wide"], ["active"]),
        node("MatMul", ["active", "down"], ["narrow"]),
        node("Add", ["y", "narrow"], ["z"]),
        node("LayerNormalization", ["z", "one"], ["tokens"]),
    ]
    return model(nodes, {"image": shape}, ["tokens"], constants, metadata or {})


def means(
    shape: tuple[Any, ...] = IMAGE,
    kind: int = TensorProto.FLOAT,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The mean of each channel, (n, 3) features."""
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["features"], axes=axes, keepdims=0),
    ]
    return model(nodes, {"image": shape}, ["features"], {}, metadata or {}, kind)


def model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[Any, ...] | None],
    outputs: list[str],
    constants: Mapping[str, Any],
    metadata: Mapping[str, str],
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of these nodes."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value(name, kind, shape) for name, shape in inputs.items()],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(made, dict(metadata))
    return made
