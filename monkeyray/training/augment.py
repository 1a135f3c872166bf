"""Augmentation: small random changes that another moment could have made to a photograph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from monkeyray.arrays import Bytes

#: Maximum rotation in degrees, zoom, and change of brightness and contrast. They are small, since
#: animals stand upright and camera traps hardly move.
_DEGREES = 10.0
_ZOOM = 1.3
_LIGHT = 0.25
_CONTRAST = 0.25

#: Share of pictures made grey, as in infrared light.
_GREY = 0.15


def augment(pixels: Bytes, key: tuple[int, ...]) -> Bytes:
    """A picture randomly mirrored, rotated, cropped, relit and perhaps made grey.

    `pixels`: uint8 RGB of shape (n, n, 3). `key`: non-negative integers that seed the change, such
    as seed, epoch and image; the same key and pixels give the same result.
    """
    chance = np.random.default_rng(key)
    mirrored = chance.random() < 0.5
    angle = math.radians(chance.uniform(-_DEGREES, _DEGREES))
    zoom = chance.uniform(1.0, _ZOOM)
    # The position of the crop.
    shift = chance.uniform(-1.0, 1.0, size=2) * (1 - 1 / zoom) / 2
    light, contrast = chance.uniform(-1.0, 1.0, size=2) * (_LIGHT, _CONTRAST)
    grey = chance.random() < _GREY
    moved = _move(pixels, mirrored, angle, zoom, shift)
    values = moved.astype(np.float32)
    if grey:
        # Rec. 601 luma, as Pillow's mode L.
        values = np.repeat(values @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, axis=2)
    middle = values.mean()
    values = (values - middle) * np.float32(1 + contrast) + middle * np.float32(1 + light)
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _move(pixels: Bytes, mirrored: bool, angle: float, zoom: float, shift: Any) -> Bytes:
    """Mirror, rotate about the centre and zoom; the picture is reflected at its edges."""
    size = len(pixels)
    margin = size // 4
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    # Pillow maps result to source: x = a u + b v + c, y = d u + e v + f.
    cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
    a, d = (-cosine, -sine) if mirrored else (cosine, sine)
    b, e = -sine, cosine
    half = size / 2
    c = margin + half + shift[0] * size - (a + b) * half
    f = margin + half + shift[1] * size - (d + e) * half
    image = Image.fromarray(padded).transform(
        (size, size), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    return np.asarray(image, np.uint8)
