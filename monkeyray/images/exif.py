"""EXIF: which way up an image is, and when it was taken."""

from __future__ import annotations

import re
from datetime import datetime

from PIL import ExifTags, Image

from monkeyray.images.views import Box

#: The turn that each EXIF orientation asks for.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}

_TIME = re.compile(r"^(\d{4})[:\-](\d\d)[:\-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"^[+\-]\d\d:\d\d$")


def read_exif(image: Image.Image) -> Image.Exif:
    """An image's EXIF, empty if it is broken."""
    try:
        return image.getexif()
    except Exception:
        return Image.Exif()


def captured_at(exif: Image.Exif) -> str | None:
    """DateTimeOriginal as ISO 8601, with OffsetTimeOriginal if given; None if missing or broken."""
    try:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        match = _TIME.match(str(details.get(ExifTags.Base.DateTimeOriginal, "")))
        if match is None:
            return None
        moment = datetime(*(int(part) for part in match.groups()))  # type: ignore[arg-type]
        offset = str(details.get(ExifTags.Base.OffsetTimeOriginal, "")).strip("\0 ")
    except Exception:
        return None
    return moment.isoformat() + (offset if _OFFSET.match(offset) else "")


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
