"""An image's thumbnail, its hashes, and how thumbnails are compared."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from monkeyray.statistics.fingerprints import (
    SIDE,
    grey_thumbnail,
    grey_thumbnails,
    same_picture,
    window_hashes,
)
from tests.support.pictures import jpeg, noise, seen


def test_exif_rotation_does_not_change_fingerprints() -> None:
    sink = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(0).transpose(Image.Transpose.ROTATE_90).save(sink, "JPEG", quality=90, exif=exif)
    assert same_picture(seen(jpeg(noise(0))), seen(sink.getvalue())).tolist() == [True]


def test_a_column_with_gaps_and_chunks_is_read() -> None:
    one = grey_thumbnail(noise(0))
    column = pa.chunked_array([pa.array([one, None], pa.binary(SIDE * SIDE)), [one]])
    read = grey_thumbnails(column.slice(1))
    assert read.shape == (2, SIDE, SIDE)
    assert not read[0].any()
    assert read[1].tobytes() == one


def test_hashes_of_parts_are_of_what_is_cut_out() -> None:
    image = noise(3)
    cut = image.crop((19, 14, 640, 480))  # 3 % from the left and from above
    windows = window_hashes(seen(jpeg(image, 95)))[0]
    whole = window_hashes(seen(jpeg(cut, 95)))[0, 0]
    distances = np.bitwise_count(windows ^ whole)
    # Windows are counted by what is cut off above, below, left and right, the last first.
    assert distances[0b1010] == distances.min() < distances[0]
