"""The images that a person should see: the worst mistakes and the least certain, as thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from monkeyray.decode import Limits, decode
from monkeyray.errors import DecodeError, ObjectError

Array = np.ndarray[Any, Any]

_QUALITY = 80
_THREADS = 8
_LIMITS = Limits()


def worst_mistakes(truth: Array, probabilities: Array, limit: int = 24) -> Array:
    """The images that got a wrong label, the surest first, as indices int64 (at most limit,).

    `truth`: int label indices (n,); `probabilities`: (n, labels). Of equally sure ones the earlier
    image comes first.
    """
    scores = probabilities.max(axis=1)
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != truth)
    return wrong[np.argsort(-scores[wrong], kind="stable")][:limit]


def least_certain(probabilities: Array, limit: int = 24) -> Array:
    """The images whose two likeliest labels are closest, as indices int64 (at most limit,).

    `probabilities`: (n, labels), of two labels or more. Of equal margins the earlier image comes
    first.
    """
    second, first = np.partition(probabilities, (-2, -1), axis=1)[:, -2:].T
    return np.argsort(first - second, kind="stable")[:limit]


def thumbnail(data: bytes, side: int = 160, limits: Limits = _LIMITS) -> str:
    """An image file as the data URI of a JPEG whose longer side is `side` pixels.

    It shows the whole frame as it is displayed, EXIF orientation applied. It is decoded like any
    image here, squeezed into a square, and then given its shape back, so that no image costs more
    than `limits` and all modes, turns and damages are dealt with alike.

    Raises DecodeError with the kinds of `decode`.
    """
    decoded = decode(data, side, limits)
    longer = max(decoded.width, decoded.height)
    width, height = (max(1, round(side * x / longer)) for x in (decoded.width, decoded.height))
    image = Image.fromarray(decoded.pixels[0]).resize((width, height), Image.Resampling.BOX)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode("ascii")


def thumbnails(
    uris: Iterable[str], read: Callable[[str], bytes], side: int = 160
) -> dict[str, str | None]:
    """The thumbnail of each image, None where there can be none: of an image that could be read
    before, a page does without it."""

    def picture(uri: str) -> str | None:
        try:
            return thumbnail(read(uri), side)
        except (DecodeError, ObjectError):
            return None

    ordered = sorted(uris)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(ordered, pool.map(picture, ordered), strict=True))
