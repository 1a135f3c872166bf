"""Pictures for the tests of duplicates, and their thumbnails as a cache would keep them."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from monkeyray.arrays import Bytes
from monkeyray.images.decode import decode
from monkeyray.statistics.fingerprints import SIDE, grey_thumbnails


def jpeg(image: Image.Image, quality: int = 85) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def seen(*files: bytes) -> Bytes:
    """The thumbnails of encoded images, as a cache would keep them."""
    column = pa.array(
        [decode(data, 224, thumbnails=True).thumbnail for data in files], pa.binary(SIDE * SIDE)
    )
    return grey_thumbnails(pa.chunked_array([column]))


def noise(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
