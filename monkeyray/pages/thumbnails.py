"""The images worth a look (worst mistakes, least certain predictions), and their thumbnails."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from monkeyray.arrays import Array
from monkeyray.errors import DecodeError, ObjectError
from monkeyray.images.boxes import crop_of
from monkeyray.images.decode import Limits, decode
from monkeyray.images.views import Box

_QUALITY = 80
_THREADS = 8
_LIMITS = Limits()
#: Of a blurred region: colours on each side, and the margin as a share of its longer side.
_COLOURS, _MARGIN = 3, 0.05


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
    blurred: Iterable[Sequence[float]] = (),
) -> str:
    """An image file as the data URI of a JPEG whose longer side is `side` pixels.

    It shows the upright image, or the crop of a box with `padding` (see boxes.crop_of). The image
    is decoded to a square as for scoring, within `limits`, and then gets its shape back. `blurred`:
    boxes of the upright image in which nobody must be recognised.

    Raises DecodeError with the kinds of `decode`.
    """
    decoded = decode(data, side, limits, bbox=bbox, padding=padding)
    crop: Box = (0.0, 0.0, float(decoded.width), float(decoded.height))
    if bbox is not None:
        crop = crop_of(bbox, padding, decoded.width, decoded.height)
    seen = (crop[2] - crop[0], crop[3] - crop[1])
    width, height = (max(1, round(side * x / max(seen))) for x in seen)
    image = Image.fromarray(decoded.pixels[0]).resize((width, height), Image.Resampling.BOX)
    for each in blurred:
        whole = (each[0], each[1], each[0] + each[2], each[1] + each[3])
        sizes = (decoded.width, decoded.height) * 2
        _blur(image, crop, [share * size for share, size in zip(whole, sizes, strict=True)])
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode("ascii")


def _blur(image: Image.Image, crop: Box, region: Sequence[float]) -> None:
    """Blur a region in place, with a margin, so that a few colours are left of it. `crop`: what the
    image shows, and `region`, both as left, top, right and bottom in pixels of the original."""
    scales = (image.width / (crop[2] - crop[0]), image.height / (crop[3] - crop[1]))
    margin = _MARGIN * max(region[2] - region[0], region[3] - region[1])
    edges = [
        (edge - crop[i % 2] + (margin if i > 1 else -margin)) * scales[i % 2]
        for i, edge in enumerate(region)
    ]
    left, top = (max(0, math.floor(edge)) for edge in edges[:2])
    right, bottom = min(image.width, math.ceil(edges[2])), min(image.height, math.ceil(edges[3]))
    if left < right and top < bottom:
        part = image.crop((left, top, right, bottom))
        few = part.resize((_COLOURS, _COLOURS), Image.Resampling.BOX)
        image.paste(few.resize(part.size, Image.Resampling.BICUBIC), (left, top))


def thumbnails(
    uris: Iterable[str],
    read: Callable[[str], bytes],
    side: int = 160,
    boxes: Mapping[str, Sequence[float]] | None = None,
    padding: float = 0.0,
    people: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> dict[str, str | None]:
    """The thumbnail of each image, or of its box if `boxes` has one, with the boxes of `people`
    blurred; None if the image can no longer be read."""
    boxes, people = boxes or {}, people or {}

    def picture(uri: str) -> str | None:
        try:
            return thumbnail(
                read(uri), side, bbox=boxes.get(uri), padding=padding, blurred=people.get(uri, ())
            )
        except (DecodeError, ObjectError):
            return None

    ordered = sorted(uris)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(ordered, pool.map(picture, ordered), strict=True))
