"""JPEGs at every scale as Pillow decodes them, and damage that Pillow does not tell."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monkeyray.images.decode import decode
from monkeyray.images.formats import open_image
from monkeyray.images.jpeg import load, set_scale
from tests.support.pictures import encode


def photograph(seed: int = 0, width: int = 901, height: int = 603) -> Image.Image:
    """Blurred noise, which is as hard to compress as a photograph."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 9, width // 9, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


KINDS: dict[str, dict[str, Any]] = {
    "4:2:0": {"subsampling": 2}, "4:2:2": {"subsampling": 1}, "4:4:4": {"subsampling": 0},
    "progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1},
    "RGB": {"keep_rgb": True}, "grey": {}, "MPO": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_pixels_are_those_of_pillow(kind: str, scale: int) -> None:
    image = photograph().convert("L" if kind == "grey" else "RGB")
    data = encode(image, "MPO" if kind == "MPO" else "JPEG", **KINDS[kind])
    theirs = open_image(data)
    set_scale(theirs, scale)
    ours, damage = load(open_image(data), data, scale)
    assert damage is None
    assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def scan(data: bytes) -> int:
    return data.index(b"\xff\xda") + 14


def zeros(data: bytes) -> bytes:
    middle = (scan(data) + len(data)) // 2
    return data[:middle] + bytes(4096) + data[middle + 4096 :]


def other_half(data: bytes) -> bytes:
    other = encode(photograph(1))
    return data[: len(data) // 2] + other[len(other) // 2 :]


def restart_lost(data: bytes) -> bytes:
    return data.replace(b"\xff\xd5", b"\0\0", 1)


@pytest.mark.parametrize("break_", [zeros, other_half, restart_lost])
@pytest.mark.parametrize("size", [96, 600])
def test_damage_in_the_middle_is_detected(break_: Callable[[bytes], bytes], size: int) -> None:
    rows = 1 if break_ is restart_lost else 0
    broken = break_(encode(photograph(), restart_marker_rows=rows))
    found = decode(broken, size)
    assert found.status == "damaged"
    assert found.error
    # As Pillow shows it.
    with Image.open(io.BytesIO(broken)) as image:
        image.draft("RGB", (image.width * size // 603, image.height * size // 603))
        square = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(found.pixels[0], square)


def test_harmless_libjpeg_warnings_are_ignored() -> None:
    data = encode(photograph())
    for harmless in (
        data[:-2] + b"\0\0" + data[-2:],
        data[:-2] + b"\xff" * 40 + data[-2:],
        data + b"behind" * 99,
        data[:2] + b"\xff\xe2\0\x12ICC_PROFILE\0\5\2ab" + data[2:],
    ):
        assert decode(harmless, 96).status == "ok"
