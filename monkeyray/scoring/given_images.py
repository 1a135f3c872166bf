"""Images as a notebook has them: paths, bytes, PIL images, arrays, and columns of these."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image, TiffImagePlugin

from monkeyray.arrays import Array
from monkeyray.errors import DecodeError, InputError
from monkeyray.storage.location import local_uri, normalise

#: One image: a path or URI, the bytes of a file, a PIL image, or an array of uint8 RGB, (h, w, 3).
OneImage = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | Array

#: One image, or several: a list, a tuple, a generator, a Series of pandas or Polars, a column of
#: Arrow, an array (n, h, w, 3). None, NaN and null stand for an image that is not there.
Images = OneImage | Iterable[OneImage | None]

_BYTES = (bytes, bytearray, memoryview)

_WHAT = "a path or URI, bytes, a PIL image, or an array of uint8 RGB of shape (h, w, 3)"


def one_by_one(images: Images) -> Iterator[OneImage | None]:
    """The images in their order, None for one that is not there.

    Raises InputError for what is none of OneImage, naming its place, when that is reached.

    >>> list(one_by_one("a.jpg")), list(one_by_one(pa.array(["a.jpg", None])))
    (['a.jpg'], ['a.jpg', None])
    >>> len(list(one_by_one(np.zeros((2, 4, 6, 3), np.uint8))))
    2
    """
    if isinstance(images, Mapping) or hasattr(images, "columns"):
        raise InputError(
            f"images is a {type(images).__name__}: give one column of it, with paths or bytes"
        )
    for place, item in enumerate(_items(images)):
        yield _checked(item, place)


def _items(images: Any) -> Iterable[Any]:
    if isinstance(images, (pa.Array, pa.ChunkedArray)):
        return (scalar.as_py() for scalar in images)
    if isinstance(images, np.ndarray) and images.ndim == 1:
        return images.tolist()  # type: ignore[no-any-return]
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return images
    if isinstance(images, (str, os.PathLike, Image.Image, np.ndarray, *_BYTES)):
        return [images]
    if isinstance(images, Iterable):
        return images
    raise InputError(f"images is a {type(images).__name__}: give {_WHAT}, or a list of them")


def _checked(item: Any, place: int) -> OneImage | None:
    if isinstance(item, np.ndarray):
        if item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3:
            return item
        raise InputError(
            f"image {place} is an array of {item.dtype} of shape {item.shape}: give uint8 RGB of "
            "shape (h, w, 3), or a PIL image, as PIL.Image.fromarray makes of other arrays"
        )
    if isinstance(item, (str, os.PathLike, Image.Image, *_BYTES)):
        return item
    if _is_null(item):
        return None
    raise InputError(f"image {place} is a {type(item).__name__}: give {_WHAT}")


def _is_null(item: Any) -> bool:
    # pandas.NA is there only where pandas is loaded.
    pandas = sys.modules.get("pandas")
    return (
        item is None
        or (isinstance(item, float) and item != item)
        or (pandas is not None and item is pandas.NA)
    )


def uri_of(image: OneImage | None) -> str | None:
    """The URI of an image that is given by its path or URI, None for others.

    Raises ConfigError for a malformed URI, or one that carries a password.

    >>> uri_of("/photographs/../a.jpg"), uri_of("s3://bucket/a.jpg"), uri_of(b"")
    ('/a.jpg', 's3://bucket/a.jpg', None)
    """
    if isinstance(image, (str, os.PathLike)):
        return local_uri(normalise(os.fspath(image)))
    return None


def to_file(image: Image.Image | Array) -> bytes:
    """A PIL image or an array, uint8 (h, w, 3), as the bytes of a file with the same pixels.

    So they go through the one decoder, with its limits, its orientation and its transparency, and
    not through a second one that could differ. A TIFF that is not compressed costs two copies and
    a tenth of the time of a PNG.

    Raises DecodeError with kind empty or unreadable.

    >>> from monkeyray.images.decode import decode
    >>> image = Image.new("RGB", (40, 30), "white")
    >>> decoded = decode(to_file(image), 8)
    >>> decoded.width, decoded.height, decoded.pixels.shape, int(decoded.pixels.min())
    (40, 30, (1, 8, 8, 3), 255)
    """
    if 0 in (image.shape if isinstance(image, np.ndarray) else image.size):
        raise DecodeError("empty", "it has no pixels")
    file = io.BytesIO()
    try:
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        image.load()
        tags = _tags_of(image)
        if not image.mode.startswith("I") and image.mode != "F":  # whose range the decoder knows
            mode = "RGBA" if image.has_transparency_data else "RGB"
            image = image if image.mode == mode else image.convert(mode)
        image.save(file, "TIFF", compression="raw", tiffinfo=tags, icc_profile=None)
    except MemoryError:
        raise
    except Exception as error:  # as for files, Pillow's plugins raise almost anything
        reason = " ".join(str(error).split())[:200]
        raise DecodeError("unreadable", reason or type(error).__name__) from None
    return file.getvalue()


def _tags_of(image: Image.Image) -> TiffImagePlugin.ImageFileDirectory_v2:
    """What the decoder reads of EXIF, written anew, since Pillow fails to write what is odd."""
    kept = TiffImagePlugin.ImageFileDirectory_v2()
    with contextlib.suppress(Exception):
        found = image.getexif()
        orientation = found.get(ExifTags.Base.Orientation)
        if orientation in range(1, 9):
            kept[ExifTags.Base.Orientation] = orientation
        details = found.get_ifd(ExifTags.IFD.Exif)
        tags = (ExifTags.Base.DateTimeOriginal, ExifTags.Base.OffsetTimeOriginal)
        if times := {tag: str(details[tag]) for tag in tags if tag in details}:
            kept[ExifTags.IFD.Exif] = times
    return kept
