"""Pictures, and their thumbnails as a cache of features keeps them."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from monkeyray.arrays import Bytes
from monkeyray.images.decode import decode
from monkeyray.statistics.fingerprints import SIDE, grey_thumbnails


def encode(image: Image.Image, format_: str = "JPEG", **options: object) -> bytes:
    """An image as a file."""
    sink = io.BytesIO()
    image.save(sink, format_, **options)
    return sink.getvalue()


def picture(width: int = 640, height: int = 480) -> Image.Image:
    image = Image.new("RGB", (width, height), (30, 120, 60))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 3, height // 4), fill=(220, 40, 40))
    draw.ellipse((width // 2, height // 2, width - 20, height - 20), fill=(40, 40, 220))
    draw.line((0, height, width, 0), fill=(250, 250, 120), width=9)
    return image


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    return encode(image, quality=quality)


def seen(*files: bytes) -> Bytes:
    """The thumbnails of encoded images, as a cache would keep them."""
    column = pa.array(
        [decode(data, 224, thumbnails=True).thumbnail for data in files], pa.binary(SIDE * SIDE)
    )
    return grey_thumbnails(pa.chunked_array([column]))


def noise(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
