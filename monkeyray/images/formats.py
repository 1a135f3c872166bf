"""The readable formats, and a description of files that cannot be opened."""

from __future__ import annotations

import functools
import io
import re
import struct

from PIL import Image, TiffImagePlugin

from monkeyray.errors import DecodeError

#: The readable formats by Pillow's names; MPO comes with JPEG.
_READ = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")


def open_image(data: bytes) -> Image.Image:
    """Open an image of a readable format without decoding it. Raises as Pillow does."""
    return Image.open(io.BytesIO(data), formats=readable_formats())


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """The formats of _READ that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _READ if name in Image.OPEN)


#: First bytes of readable formats. A file that has them and that Pillow rejects is broken.
_BEGINNINGS = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("BMP", re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL)),
    ("AVIF", re.compile(rb"....ftypavi[fs]", re.DOTALL)),
)
#: First bytes of other files.
_MAGIC = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"Rar!", "a rar archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"%PDF", "a PDF"),
    (b"RIFF", "a video or sound file"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"\x30\x26\xb2\x75", "a video"),
    (b"FUJIFILM", "a camera raw file"),
    (b"IIU\0", "a camera raw file"),
    (b"IIRO", "a camera raw file"),
    (b"II*\0", "a TIFF or camera raw file"),
    (b"MM\0*", "a TIFF or camera raw file"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
)
#: The brands of ISO media files that are not videos.
_BRANDS = {
    **dict.fromkeys(("heic", "heix", "mif1"), "an HEIF image"),
    **dict.fromkeys(("avif", "avis"), "an AVIF image"),
    "crx": "a camera raw file",
}


def unidentified(data: bytes) -> DecodeError:
    """The error for a file that Pillow rejects: broken, or of another kind."""
    for name, beginning in _BEGINNINGS:
        if name in readable_formats() and beginning.match(data):
            return DecodeError("unreadable", f"the header of this {name} cannot be read")
    if data[:4] in (b"II*\0", b"MM\0*") and not _has_directory(data):
        return DecodeError("unreadable", "this TIFF is truncated")
    return DecodeError("unsupported", f"not an image: {_describe(data)}")


#: Bytes of a value in a TIFF directory by its type.
_TIFF_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)


def _has_directory(data: bytes) -> bool:
    """Whether a TIFF's first directory, which describes it, lies in the file with its values."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, start)
        for i in range(entries):
            kind, count, place = struct.unpack_from(order + "HII", data, start + 12 * i + 4)
            size = count * _TIFF_BYTES[kind] if kind < len(_TIFF_BYTES) else 0
            if size > 4 and place + size > len(data):
                return False
    except struct.error:  # beyond the end
        return False
    return bool(start >= 8 and entries > 0)


def is_raw_preview(image: Image.Image) -> bool:
    """Whether Pillow opened the small preview inside a camera raw file."""
    kind = image.tag_v2.get(254, 0) if isinstance(image, TiffImagePlugin.TiffImageFile) else 0
    return isinstance(kind, int) and kind & 1 == 1


def _describe(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if head.startswith((b"<?xml", b"<error")):
        return "an XML document"
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("latin-1").strip()
        name = _BRANDS.get(brand, "a video")
        return f"{name} ({brand})" if name.endswith("image") else name
    if data[257:262] == b"ustar":
        return "a tar archive"
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    return "unknown format"
