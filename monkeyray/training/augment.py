"""Augmentation: a photograph of an animal as another moment would have shown it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from monkeyray.arrays import Bytes

#: Largest turn in degrees, largest magnification, and largest change of light and of contrast. An
#: animal stands upright and a camera trap does not move much, so they are small.
_DEGREES = 10.0
_ZOOM = 1.3
_LIGHT = 0.25
_CONTRAST = 0.25

#: Share of pictures without colour, as at infrared night.
_GREY = 0.15


def augment(pixels: Bytes, key: tuple[int, ...]) -> Bytes:
    """A picture mirrored, turned, cropped, lit and perhaps without colour, by the chance of `key`.

    `pixels`: uint8 RGB of shape (n, n, 3). `key`: non-negative integers, such as seed, epoch and
    image; the same key and pixels give the same result.
    """
    chance = np.random.default_rng(key)
    mirrored = chance.random() < 0.5
    angle = math.radians(chance.uniform(-_DEGREES, _DEGREES))
    zoom = chance.uniform(1.0, _ZOOM)
    # Where the crop lies within what it leaves free.
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
    """Mirror, rotate about the middle and magnify; beyond the edge the picture is reflected."""
    size = len(pixels)
    margin = size // 4
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    # Pillow asks where each pixel of the result comes from: x = a u + b v + c, y = d u + e v + f.
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
