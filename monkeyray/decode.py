"""Bytes to pixels: the one decoder of training and scoring."""

from __future__ import annotations

import functools
import hashlib
import io
import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from monkeyray.errors import DecodeError

#: Goes up with every change that alters pixels, so that cached features are not mixed.
DECODE_VERSION = 1

_READ = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")


@dataclass(frozen=True)
class Limits:
    """What is refused from the header alone, before anything is decoded."""

    max_bytes: int = 256 * 2**20
    max_pixels: int = 200_000_000


@dataclass(frozen=True)
class Decoded:
    """An image as the networks see it.

    `pixels`: uint8 RGB of shape (size, size, 3), 0-255. `width` and `height`: of the original in
    pixels, as displayed (EXIF orientation applied). `captured_at`: EXIF local time in ISO 8601,
    with an offset only where EXIF gives one.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    width: int
    height: int
    captured_at: str | None


def decode(data: bytes, size: int, limits: Limits = Limits()) -> Decoded:
    """Decode an image and squeeze the whole of it into a square of `size` pixels.

    JPEGs are decoded at the smallest scale that still covers `size`, then resized with an
    antialiased bilinear filter. The whole frame is kept, since animals enter at its edges. The
    first frame of a sequence is taken, and transparency is laid on white.

    Raises DecodeError with kind empty, unsupported, unreadable or too_large.
    """
    if not data:
        raise DecodeError("empty", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise DecodeError("too_large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    try:
        with warnings.catch_warnings():
            # Pillow warns of bombs and odd EXIF; the limits above and below decide instead.
            warnings.simplefilter("ignore")
            return _decode(data, size, limits)
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError("unsupported", f"not an image: {_describe(data)}") from None
    except Exception as error:  # Pillow's plugins raise almost anything for broken files
        raise DecodeError("unreadable", _one_line(error)) from None


def sha256(data: bytes) -> str:
    """The content hash of a file, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def perceptual_hash(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    """The 64-bit DCT hash (pHash, Zauner 2010) of uint8 RGB pixels of shape (n, n, 3), n >= 32.

    Images that differ by a re-encoding or a rescale are a few bits apart; on photographs of
    animals 10 bits or fewer mean the same picture.
    """
    grey = Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float64)
    low = (_DCT @ values @ _DCT.T).ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _dct_matrix(rows: int, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    k, i = np.mgrid[0:rows, 0:n]
    matrix = np.cos(np.pi * k * (2 * i + 1) / (2 * n)) * np.sqrt(2 / n)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, dtype=np.float64)


_DCT = _dct_matrix(8, 32)


def _decode(data: bytes, size: int, limits: Limits) -> Decoded:
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise DecodeError(
                "too_large", f"{width} x {height} pixels, the limit is {limits.max_pixels}"
            )
        exif = image.getexif()
        captured_at = _captured_at(exif)
        if exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
            width, height = height, width
        if isinstance(image, ImageFile.ImageFile) and image.format in ("JPEG", "MPO"):
            image.draft("RGB" if image.mode != "L" else "L", (size, size))
        square = _flatten(image).resize((size, size), Image.Resampling.BILINEAR)
        # A square can be turned after the resize, which is cheaper and the same.
        square = ImageOps.exif_transpose(_with_exif(square, exif))
        return Decoded(np.asarray(square), width, height, captured_at)


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that we read and this Pillow can; MPO comes with JPEG."""
    Image.init()
    return tuple(name for name in _READ if name in Image.OPEN)


def _flatten(image: Image.Image) -> Image.Image:
    """Any mode to RGB: 16 bits are scaled down, transparency is laid on white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1.0)
        image = Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image)
        image = canvas
    return image.convert("RGB")


def _with_exif(image: Image.Image, exif: Image.Exif) -> Image.Image:
    orientation = exif.get(ExifTags.Base.Orientation)
    if orientation in range(2, 9):
        image.getexif()[ExifTags.Base.Orientation] = orientation
    return image


_TIME = re.compile(r"^(\d{4})[:\-](\d\d)[:\-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"^[+\-]\d\d:\d\d$")


def _captured_at(exif: Image.Exif) -> str | None:
    """EXIF DateTimeOriginal as ISO 8601, with OffsetTimeOriginal where there is one."""
    try:
        details = exif.get_ifd(ExifTags.IFD.Exif)
        match = _TIME.match(str(details.get(ExifTags.Base.DateTimeOriginal, "")))
        if match is None:
            return None
        moment = datetime(*(int(part) for part in match.groups()))  # type: ignore[arg-type]
        offset = str(details.get(ExifTags.Base.OffsetTimeOriginal, "")).strip("\0 ")
    except Exception:  # a broken EXIF block makes no image unreadable
        return None
    return moment.isoformat() + (offset if _OFFSET.match(offset) else "")


_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a rar archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"%PDF", "a PDF"),
    (b"RIFF", "a video or sound file"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"II\x2a\x00", "a TIFF or camera raw file"),
)


def _describe(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if head.startswith((b"<?xml", b"<error")):
        return "an XML document"
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("latin-1").strip()
        return f"an HEIF image ({brand})" if brand in ("heic", "heix", "mif1") else "a video"
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    return "unknown format"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
