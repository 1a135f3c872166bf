"""The weights of a bundle as safetensors files, and a backbone that came as an ONNX file as that
file, each named by its component and its hash."""

from __future__ import annotations

import re

import numpy as np

from monkeyray.errors import BundleError, MissingError, TooLargeError
from monkeyray.model.backbones import ONNX, Weights
from monkeyray.storage.keys import sha256
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

#: No file is larger; the largest backbone has 100 MB.
_MOST_BYTES = 2**30


def file_of(component: str, weights: Weights) -> tuple[str, bytes]:
    """The name of a component's file, and its bytes."""
    data = pack(weights)
    return f"{component}-{sha256(data)[:16]}.{ONNX if ONNX in weights else 'safetensors'}", data


def is_ours(name: object, *components: str) -> bool:
    """Whether `file_of` could have made this name for one of the components: a name in an
    untrusted model.json must not point elsewhere."""
    either = "|".join(components)
    pattern = rf"({either})-[0-9a-f]{{16}}\.(safetensors|{ONNX})"
    return isinstance(name, str) and re.fullmatch(pattern, name) is not None


def pack(weights: Weights) -> bytes:
    """The bytes of a file."""
    if ONNX in weights:
        return weights[ONNX].tobytes()
    from safetensors.numpy import save

    return bytes(save({key: np.ascontiguousarray(weights[key]) for key in sorted(weights)}))


def read_arrays(place: Location, storage: Storage, name: str, expected: str) -> Weights:
    """The arrays of a file of the bundle in `uri`. `expected`: its SHA-256.

    Raises BundleError if it is missing, too large, or not the file with that hash.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = storage.read(place / name, _MOST_BYTES).data
    except MissingError as error:
        raise BundleError(f"{place} is damaged: {name} is missing") from error
    except TooLargeError as error:
        raise BundleError(f"{place} is damaged: {error}") from error
    if sha256(data) != expected:
        raise BundleError(f"{place} is damaged: {name} does not match its hash in model.json")
    if name.endswith(f".{ONNX}"):
        return {ONNX: np.frombuffer(data, np.uint8)}
    try:
        weights: Weights = load(data)
    except (SafetensorError, KeyError) as error:  # KeyError for types that NumPy lacks
        raise BundleError(f"{place} is damaged: {name} holds no weights: {error}") from error
    return weights
