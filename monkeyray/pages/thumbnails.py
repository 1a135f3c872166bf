"""The images worth a look (worst mistakes, least certain predictions), and their thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from monkeyray.arrays import Array
from monkeyray.errors import DecodeError, ObjectError
from monkeyray.images.boxes import crop_of
from monkeyray.images.decode import Limits, decode

_QUALITY = 80
_THREADS = 8
_LIMITS = Limits()


def worst_mistakes(truth: Array, probabilities: Array, limit: int = 24) -> Array:
    """Wrong predictions, highest scores first, as indices int64 (at most limit,).

    `truth`: int label indices (n,); `probabilities`: (n, labels). Ties keep the order of the
    images.
    """
    scores = probabilities.max(axis=1)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != truth)
    return wrong[np.argsort(-scores[wrong], kind="stable")][:limit]


def least_certain(probabilities: Array, limit: int = 24) -> Array:
    """The images whose two best labels have the closest scores, as indices int64 (at most limit,).

    `probabilities`: (n, labels), of two labels or more. Ties keep the order of the images.
    """
    second, first = np.partition(probabilities, (-2, -1), axis=1)[:, -2:].T
    return np.argsort(first - second, kind="stable")[:limit]


def thumbnail(
    data: bytes,
    side: int = 160,
    limits: Limits = _LIMITS,
    bbox: Sequence[float] | None = None,
    padding: float = 0.0,
) -> str:
    """An image file as the data URI of a JPEG whose longer side is `side` pixels.

    It shows the upright image, or the crop of a box with `padding` (see boxes.crop_of). The image
    is decoded to a square as for scoring, within `limits`, and then gets its shape back.

    Raises DecodeError with the kinds of `decode`.
    """
    decoded = decode(data, side, limits, bbox=bbox, padding=padding)
    seen: tuple[float, float] = (decoded.width, decoded.height)
    if bbox is not None:
        left, top, right, bottom = crop_of(bbox, padding, decoded.width, decoded.height)
        seen = (right - left, bottom - top)
    width, height = (max(1, round(side * x / max(seen))) for x in seen)
    image = Image.fromarray(decoded.pixels[0]).resize((width, height), Image.Resampling.BOX)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode("ascii")


def thumbnails(
    uris: Iterable[str],
    read: Callable[[str], bytes],
    side: int = 160,
    boxes: Mapping[str, Sequence[float]] | None = None,
    padding: float = 0.0,
) -> dict[str, str | None]:
    """The thumbnail of each image, or of its box if `boxes` has one; None if the image can no
    longer be read."""
    boxes = boxes or {}

    def picture(uri: str) -> str | None:
        try:
            return thumbnail(read(uri), side, bbox=boxes.get(uri), padding=padding)
        except (DecodeError, ObjectError):
            return None

    ordered = sorted(uris)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(ordered, pool.map(picture, ordered), strict=True))
