"""What an ONNX file says of itself is read from it, and other files are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from monkeyray.model.onnx_file import read_onnx
from tests.support.onnx_files import IMAGE, SIZE, means, model, transformer

GOOD = transformer().SerializeToString()


def test_the_header_of_a_file() -> None:
    file = read_onnx(transformer(metadata={"a": "b", "c": ""}).SerializeToString())
    assert (file.input, file.output, file.dtype) == ("image", "tokens", "float32")
    assert (file.channels_first, file.batch, file.size) == (True, None, SIZE)
    assert file.metadata == {"a": "b", "c": ""}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 3, 8, 8), (True, 1, 8)),
        ((None, 8, 8, 3), (False, None, 8)),
        (("n", 3, "height", "width"), (True, None, None)),
        ((-1, 3, 0, 0), (True, None, None)),
        ((1, "height", 9, 3), (False, 1, 9)),
    ],
)
def test_the_shapes_of_an_image(shape: tuple[Any, ...], expected: Any) -> None:
    file = read_onnx(means(shape).SerializeToString())
    assert (file.channels_first, file.batch, file.size) == expected


def test_weights_listed_as_inputs_are_not_inputs() -> None:
    old = transformer()
    for tensor in old.graph.initializer:
        old.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    assert read_onnx(old.SerializeToString()).input == "image"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (None, "not an image"),
        (("n", 10), r"\(\?, 10\), not an image"),
        (("n", 1, 8, 8), r"\(\?, 1, 8, 8\), not an image"),
        (("n", 3, 3, 3), "not an image"),
        (("n", None, 8, 8), "not an image"),
        (("n", 3, 8, 16), "images here are square"),
        ((8, 3, 8, 8), "fixed batch of 8 images: export it with a dynamic batch, or with 1"),
    ],
)
def test_other_inputs_are_refused(shape: Any, words: str) -> None:
    nodes = [helper.make_node("Relu", ["image"], ["features"])]
    made = model(nodes, {"image": shape}, ["features"], {}, {})
    with pytest.raises(ValueError, match=words):
        read_onnx(made.SerializeToString())


def external(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The same tensor, in another file."""
    outside = onnx.TensorProto()
    outside.CopyFrom(tensor)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    entry = outside.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return outside


SECRET = external(numpy_helper.from_array(np.zeros(4, np.float32), "secret"))


def in_the_weights(made: onnx.ModelProto) -> None:
    made.graph.initializer.append(SECRET)


def in_a_constant(made: onnx.ModelProto) -> None:
    made.graph.node.append(helper.make_node("Constant", [], ["constant"], value=SECRET))


def in_a_branch(made: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [], [SECRET])
    made.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner))


def in_a_function(made: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["constant"], value=SECRET)
    made.functions.append(helper.make_function("own", "F", [], ["constant"], [node], []))


@pytest.mark.parametrize("add", [in_the_weights, in_a_constant, in_a_branch, in_a_function])
def test_external_data_is_found_anywhere(add: Callable[[onnx.ModelProto], None]) -> None:
    made = transformer()
    add(made)
    with pytest.raises(ValueError, match="keeps its weights in other files: write it as one"):
        read_onnx(made.SerializeToString())
    # Protobuf merges a graph that is given twice.
    made = onnx.ModelProto()
    add(made)
    with pytest.raises(ValueError, match="keeps its weights in other files: write it as one"):
        read_onnx(GOOD + made.SerializeToString())


def test_custom_operators_are_refused_unless_the_file_defines_them() -> None:
    made = transformer()
    made.graph.node.append(helper.make_node("Magic", ["tokens"], ["more"], domain="own"))
    with pytest.raises(ValueError, match=r"operators that are not ONNX's own \(own.Magic\)"):
        read_onnx(made.SerializeToString())
    node = helper.make_node("Relu", ["a"], ["b"])
    made.functions.append(helper.make_function("own", "Magic", ["a"], ["b"], [node], []))
    assert read_onnx(made.SerializeToString()).output == "tokens"


def test_one_input_and_one_output() -> None:
    nodes = [helper.make_node("Add", ["image", "other"], ["sum"])]
    two = model(nodes, {"image": IMAGE, "other": (1,)}, ["sum"], {}, {})
    with pytest.raises(ValueError, match=r"has 2 inputs \(image, other\): export it with the im"):
        read_onnx(two.SerializeToString())
    two = transformer()
    two.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    with pytest.raises(ValueError, match=r"has 2 outputs \(tokens, y\): export it with the feat"):
        read_onnx(two.SerializeToString())
    with pytest.raises(ValueError, match="has 0 inputs: export"):
        read_onnx(model([], {}, ["x"], {}, {}).SerializeToString())
    with pytest.raises(ValueError, match="neither float nor uint8"):
        read_onnx(means(kind=TensorProto.INT64).SerializeToString())


@pytest.mark.parametrize(
    "data",
    [b"", b"<!doctype html><p>404", b"version https://git-lfs.github.com/spec/v1\n", GOOD[:-9],
     b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x08"],
)  # fmt: skip
def test_files_of_other_kinds(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^is not an ONNX file, or is damaged$"):
        read_onnx(data)


def test_nesting_of_graphs_is_limited() -> None:
    body = b""
    for _ in range(60):
        for number in (6, 5, 1):  # the graph of an attribute of a node
            size = bytes([len(body) & 127 | 128, len(body) >> 7])
            body = bytes([number << 3 | 2]) + size + body
    with pytest.raises(ValueError, match="is not an ONNX file"):
        read_onnx(bytes([7 << 3 | 2, len(body) & 127 | 128, len(body) >> 7]) + body)


def test_too_many_fields_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monkeyray.model.onnx_file._MOST_FIELDS", 50)
    with pytest.raises(ValueError, match="is not an ONNX file"):
        read_onnx(GOOD)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_onnx(data)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_any_damage(place: int, byte: int) -> None:
    with contextlib.suppress(ValueError):
        read_onnx(GOOD[:place] + bytes([byte]) + GOOD[place + 1 :])
