"""EXIF: which way up an image is, and when it was taken."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from monkeyray.images.times import parse_time
from monkeyray.images.views import Box

#: The rotation or flip for each EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}

_OFFSET = re.compile(r"^[+\-]\d\d:\d\d$")


def read_exif(image: Image.Image) -> Image.Exif:
    """An image's EXIF, empty if it is broken."""
    try:
        return image.getexif()
    except Exception:
        return Image.Exif()


def captured_at(exif: Image.Exif) -> str | None:
    """When an image was taken, as ISO 8601 with an offset only if EXIF has one; None if missing.

    DateTimeOriginal, else the maker note of Reconyx cameras, else DateTimeDigitized.
    """
    try:
        details = exif.get_ifd(ExifTags.IFD.Exif)
    except Exception:
        return None
    return (
        _time(details, ExifTags.Base.DateTimeOriginal, ExifTags.Base.OffsetTimeOriginal)
        or _reconyx(details.get(ExifTags.Base.MakerNote))
        or _time(details, ExifTags.Base.DateTimeDigitized, ExifTags.Base.OffsetTimeDigitized)
    )


def _time(details: Mapping[int, Any], tag: int, offset_tag: int) -> str | None:
    time = parse_time(str(details.get(tag, "")))
    offset = str(details.get(offset_tag, "")).strip("\0 ")
    whole = time is None or len(time) > 19 or not _OFFSET.match(offset)
    return time if whole else f"{time}{offset}"


def _reconyx(note: Any) -> str | None:
    """The time in the maker note of a Reconyx HyperFire, whose EXIF has no other.

    Little-endian uint16, the first 0xF101; second, minute, hour, month, day and year from byte 22,
    which some cameras write in big-endian. They are a valid time in at most one of the two orders.
    """
    if not isinstance(note, bytes) or len(note) < 34 or note[:2] != b"\x01\xf1":
        return None
    for order in "<>":
        second, minute, hour, month, day, year = struct.unpack_from(f"{order}6H", note, 22)
        with contextlib.suppress(ValueError):
            return datetime(year, month, day, hour, minute, second).isoformat()
    return None


def turn_of(image: Image.Image, exif: Image.Exif) -> Image.Transpose | None:
    """The turn that makes an image upright, None if it is."""
    # Pillow turns a TIFF when it loads it.
    orientation = None if image.format == "TIFF" else exif.get(ExifTags.Base.Orientation)
    return _TURNS.get(orientation or 1)


def swaps_sides(turn: Image.Transpose | None) -> bool:
    """Whether width and height change places in a turn."""
    return turn in _SIDEWAYS


def as_stored(box: Box, turn: Image.Transpose | None, width: int, height: int) -> Box:
    """The pixels of a file that become a box of the upright image, which has that size."""
    left, top, right, bottom = box
    if turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
                Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE):  # fmt: skip
        left, right = width - right, width - left
    if turn in (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180,
                Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE):  # fmt: skip
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if turn in _SIDEWAYS else (left, top, right, bottom)
