"""Reads what an ONNX file says of itself, without the help of a runtime.

Runtimes print to the terminal for files of other kinds, and read the external data of a file from
wherever it says. So its protobuf is scanned here first. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

#: The messages within a message that can hold tensors or operators, by field number.
_INNER: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}

#: Maximum depth of messages, as in protobuf itself, and number of fields.
_DEEPEST, _MOST_FIELDS = 100, 5_000_000

#: The element types that an image may have, by onnx.TensorProto.DataType.
_TYPES = {1: "float32", 2: "uint8", 10: "float16", 11: "float64"}

#: Domains of operators that runtimes know; the last is of ONNX Runtime, partly known to OpenVINO.
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")

_Fields = list[tuple[int, "int | memoryview"]]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file with one image as input and one output.

    `input`, `output`: their names. `dtype`: of the image's numbers. `channels_first`: (n, 3, size,
    size), otherwise (n, size, size, 3). `batch`: the fixed n, None if any. `size`: side of the
    square image in pixels, None if any. `metadata`: what its exporter wrote down.
    """

    data: bytes
    input: str
    output: str
    dtype: str
    channels_first: bool
    batch: int | None
    size: int | None
    metadata: Mapping[str, str]


def read_onnx(data: bytes) -> OnnxFile:
    """Read the header of an ONNX file.

    Raises ValueError, with a text that follows the name of the file, for other files, and for those
    with external data, unknown operators, or other than one image and one output.
    """
    scan = _Scan()
    try:
        top = scan.read("model", memoryview(data))
        graphs = [scan.fields(value) for value in _all(top, 7)]
        properties = [scan.fields(value) for value in _all(top, 14)]
        metadata = {_text(entry, 1): _text(entry, 2) for entry in properties}
        functions = [scan.fields(value) for value in _all(top, 25)]
        local = {(_text(each, 10), _text(each, 1)) for each in functions}
        # Old exporters list the weights among the inputs too.
        weights = {_text(scan.fields(value), 8) for graph in graphs for value in _all(graph, 5)}
        ports = [
            {_text(info, 1): info for graph in graphs for info in map(scan.fields, _all(graph, n))}
            for n in (11, 12)
        ]
        inputs = {name: info for name, info in ports[0].items() if name not in weights}
        shapes = {name: _shape(scan, info) for name, info in inputs.items()}
    except _MalformedError:
        graphs = []
    if not graphs:
        raise ValueError("is not an ONNX file, or is damaged")
    if scan.external:
        raise ValueError(
            "keeps its weights in other files: write it as one file, for example with "
            "onnx.save(onnx.load(OLD), NEW)"
        )
    unknown = sorted(
        f"{domain}.{name}"
        for domain, name in scan.operators - local
        if domain not in _KNOWN_DOMAINS
    )
    if unknown:
        raise ValueError(f"uses operators that are not ONNX's own ({_some(unknown)})")
    for what, names in (("input", [*inputs]), ("output", [*ports[1]])):
        if len(names) != 1:
            found = f"{len(names)} {what}s" + (f" ({_some(names)})" if names else "")
            only = "the image alone" if what == "input" else "the features alone"
            raise ValueError(f"has {found}: export it with {only}")
    ((name, (kind, shape)),) = shapes.items()
    (output,) = ports[1]
    return _file(data, name, output, kind, shape, metadata)


def _file(
    data: bytes,
    name: str,
    output: str,
    kind: int,
    shape: list[int | None] | None,
    metadata: Mapping[str, str],
) -> OnnxFile:
    shown = "of unknown shape" if shape is None else f"({', '.join(map(_side, shape))})"
    wrong = f"has an input {name!r} {shown}, not an image (n, 3, size, size) or (n, size, size, 3)"
    if shape is None or len(shape) != 4:
        raise ValueError(wrong)
    if kind not in _TYPES:
        raise ValueError(f"has an input {name!r} that is neither float nor uint8")
    first, last = shape[1] == 3, shape[3] == 3
    if first == last:
        raise ValueError(wrong)
    sides = {side for side in (shape[2:] if first else shape[1:3]) if side is not None}
    if len(sides) > 1:
        raise ValueError(f"{wrong}: images here are square")
    if shape[0] not in (None, 1):
        raise ValueError(
            f"has a fixed batch of {shape[0]} images: export it with a dynamic batch, or with 1"
        )
    size = next(iter(sides), None)
    return OnnxFile(data, name, output, _TYPES[kind], first, shape[0], size, metadata)


class _MalformedError(Exception):
    """The bytes are not the protobuf expected."""


@dataclass
class _Scan:
    """What a file holds at any depth. `external`: tensors in other files. `operators`: the domain
    and name of each."""

    external: bool = False
    operators: set[tuple[str, str]] = field(default_factory=set)
    count: int = 0

    def read(self, kind: str, data: int | memoryview, depth: int = 0) -> _Fields:
        """The fields of a message, after a look at the messages within."""
        if depth > _DEEPEST:
            raise _MalformedError
        fields = self.fields(data)
        if kind == "tensor":
            self.external |= any(number == 13 or (number, v) == (14, 1) for number, v in fields)
        elif kind == "node":
            self.operators.add((_text(fields, 7), _text(fields, 4)))
        for number, value in fields:
            if number in _INNER[kind]:
                self.read(_INNER[kind][number], value, depth + 1)
        return fields

    def fields(self, data: int | memoryview) -> _Fields:
        """The number and value of each field of a message: an int, or its bytes."""
        if isinstance(data, int):
            raise _MalformedError
        fields = [*islice(_fields(data), _MOST_FIELDS - self.count)]
        self.count += len(fields)
        if self.count >= _MOST_FIELDS:
            raise _MalformedError
        return fields


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if key < 8 or key >= 2**32 or kind not in (0, 1, 2, 5):
            raise _MalformedError
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        else:
            size = 8 if kind == 1 else 4
        if at + size > len(data):
            raise _MalformedError
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise _MalformedError


def _all(fields: _Fields, number: int) -> Iterator[int | memoryview]:
    return (value for key, value in fields if key == number)


def _text(fields: _Fields, number: int) -> str:
    value = [*_all(fields, number)][-1:]
    if not value:
        return ""
    if isinstance(value[0], int):
        raise _MalformedError
    return bytes(value[0][:1000]).decode(errors="replace")


def _shape(scan: _Scan, info: _Fields) -> tuple[int, list[int | None] | None]:
    """The element type and shape of an input, None for what may vary."""
    tensor = [each for kind in _all(info, 2) for each in _all(scan.fields(kind), 1)]
    if not tensor:
        return 0, None
    fields = scan.fields(tensor[-1])
    kind = [value for value in _all(fields, 1) if isinstance(value, int)][-1:]
    shapes = [*_all(fields, 2)]
    if not kind or not shapes:
        return 0, None
    sides: list[int | None] = []
    for each in _all(scan.fields(shapes[-1]), 1):
        side = [value for value in _all(scan.fields(each), 1) if isinstance(value, int)][-1:]
        # Some exporters write 0 or -1 for any.
        sides.append(side[0] if side and 0 < side[0] < 2**31 else None)
    return kind[0], sides


def _side(side: int | None) -> str:
    return "?" if side is None else str(side)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
