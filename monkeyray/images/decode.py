"""Bytes to pixels: the one decoder of training and scoring."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from monkeyray.arrays import Bytes
from monkeyray.errors import DecodeError
from monkeyray.images.boxes import crop_of
from monkeyray.images.views import VIEWS, View
from monkeyray.statistics.fingerprints import thumbnail

#: Goes up with every change that alters pixels, so that cached features are not mixed.
DECODE_VERSION = 3

#: Antialiased; the same in training and scoring.
_FILTER = Image.Resampling.BILINEAR

#: Left, top, right and bottom, in pixels.
Box = tuple[float, float, float, float]

_READ = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")


@dataclass(frozen=True)
class Limits:
    """What one image may cost.

    More than `max_bytes` or `max_pixels` are refused from the header alone, before anything is
    decoded; after `decode_seconds` the decoder is taken to hang; `max_refused` images in sequence
    that the store does not have or give are taken for a fault of the store.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 150_000_000
    decode_seconds: float = 60.0
    max_refused: int = 1000


@dataclass(frozen=True)
class Decoded:
    """An image as the networks see it.

    `pixels`: uint8 RGB of shape (views, size, size, 3), 0-255. `width` and `height`: of the
    original in pixels, as displayed (EXIF orientation applied). `captured_at`: EXIF local time in
    ISO 8601, with an offset only where EXIF gives one. `truncated`: why only a part of it could be
    read; what is missing is grey. `thumbnail`: the whole frame, to find duplicates by, where it was
    asked for.
    """

    pixels: Bytes
    width: int
    height: int
    captured_at: str | None
    truncated: str | None = None
    thumbnail: bytes | None = None


def decode(
    data: bytes,
    size: int,
    limits: Limits = Limits(),
    views: Sequence[str] = ("whole",),
    thumbnails: bool = False,
    bbox: Sequence[float] | None = None,
    padding: float = 0.0,
) -> Decoded:
    """Decode an image and squeeze each of its `views` into a square of `size` pixels.

    JPEGs are decoded at the smallest scale that still covers `size`, then resized with an
    antialiased bilinear filter. The first frame of a sequence is taken, and transparency is laid on
    white. Of a JPEG that breaks off, half of the rows is enough, or the first scan where it has
    several.

    `bbox`: a box as left, top, width and height in shares of the upright image, whose crop with
    `padding` (see boxes.crop_of) is taken for the image: the views are parts of it, the scale
    covers it, and half of its rows are enough. Without views no pixels are decoded, but only what
    the header tells is read.

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
            chosen = [VIEWS[view] for view in views]
            return _decode(data, size, limits, chosen, thumbnails, bbox, padding)
    except (DecodeError, MemoryError):
        raise
    except Image.DecompressionBombError:  # Pillow's own bound, some 179 million pixels
        raise DecodeError("too_large", "more pixels than Pillow reads") from None
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # Pillow's plugins raise almost anything for broken files
        raise DecodeError("unreadable", _one_line(error)) from None


#: What EXIF's orientations ask for.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_ON_THEIR_SIDE = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}


def _decode(
    data: bytes,
    size: int,
    limits: Limits,
    views: list[View],
    thumbnails: bool,
    bbox: Sequence[float] | None,
    padding: float,
) -> Decoded:
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
        # Pillow allocates this canvas when it opens the file, so it is looked at before.
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        _check_pixels(width, height, limits)
    with _open(data) as image:
        width, height = image.size
        _check_pixels(width, height, limits)
        if _is_raw(image):
            raise DecodeError("unsupported", "not an image: a camera raw file")
        truncated = None
        jpeg = image.format in ("JPEG", "MPO")
        if not jpeg:
            # Before its EXIF: for a PNG's Pillow loads the image, and of a broken one fails once.
            image.load()
            width, height = image.size
        exif = _exif(image)
        captured_at = _captured_at(exif)
        # A TIFF is turned when it is loaded.
        orientation = None if image.format == "TIFF" else exif.get(ExifTags.Base.Orientation)
        turn = _TURNS.get(orientation or 1)
        upright = (height, width) if turn in _ON_THEIR_SIDE else (width, height)
        if not views:
            return Decoded(np.empty((0, size, size, 3), np.uint8), *upright, captured_at)
        part: Box = (0, 0, width, height)
        if bbox is not None:
            part = _as_stored(crop_of(bbox, padding, *upright), turn, *upright)
        scale = _smallest_scale(part, size) if jpeg else 1
        if jpeg:
            _scale(image, scale)
            try:
                image.load()
            except OSError as error:
                image, truncated = _rescue_jpeg(data, scale, part, _one_line(error))
        image = _colours(image)
        if bbox is None:
            part = (0, 0, *image.size)
        else:
            part = tuple(  # type: ignore[assignment]
                min(edge / scale, end) for edge, end in zip(part, image.size * 2, strict=True)
            )
        boxes = [_box_in(part, view) for view in views]
        whole = VIEWS["whole"].box(*image.size)
        wanted = [*boxes, whole] if thumbnails else boxes
        squares = {box: _square(image, size, box) for box in wanted}
    if turn is not None:
        # Squares can be turned after the resize, which is cheaper and the same. Not with Pillow's
        # exif_transpose: it writes all of the EXIF anew, and fails where any of it is odd.
        squares = {box: square.transpose(turn) for box, square in squares.items()}
    pixels = np.stack([np.asarray(squares[box]) for box in boxes])
    for index, view in enumerate(views):
        if view.mirrored:
            pixels[index] = pixels[index, :, ::-1].copy()
    small = thumbnail(squares[whole]) if thumbnails else None
    return Decoded(pixels, *upright, captured_at, truncated, small)


def _as_stored(box: Box, turn: Image.Transpose | None, width: int, height: int) -> Box:
    """Where the file has what is a box of the upright image, which has that size."""
    left, top, right, bottom = box
    if turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180,
                Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE):  # fmt: skip
        left, right = width - right, width - left
    if turn in (Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180,
                Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE):  # fmt: skip
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if turn in _ON_THEIR_SIDE else (left, top, right, bottom)


def _box_in(part: Box, view: View) -> Box:
    """The box of a view of a part."""
    left, top, right, bottom = part
    inner = view.box(right - left, bottom - top)
    return left + inner[0], top + inner[1], left + inner[2], top + inner[3]


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise DecodeError(
            "too_large", f"{width} x {height} pixels, the limit is {limits.max_pixels}"
        )


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data), formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that we read and this Pillow can; MPO comes with JPEG."""
    Image.init()
    return tuple(name for name in _READ if name in Image.OPEN)


def _smallest_scale(part: Box, size: int) -> int:
    """By how much libjpeg may divide an image, so that a part of it still covers `size`."""
    left, top, right, bottom = part
    times = min(right - left, bottom - top) / size
    return next((scale for scale in (8, 4, 2) if times >= scale), 1)


def _scale(image: Image.Image, scale: int) -> None:
    """Let libjpeg decode at one of its scales: 1, 2, 4 or 8."""
    if isinstance(image, ImageFile.ImageFile):
        size = (image.width // scale, image.height // scale)
        image.draft("RGB" if image.mode != "L" else "L", size)


def _colours(image: Image.Image) -> Image.Image:
    """Any mode to RGB, or RGBA where something is transparent; 16 bits are scaled down."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    # Where nothing is to be done Pillow would make a copy, which is up to half a gigabyte.
    return image if image.mode == mode else image.convert(mode)


def _square(image: Image.Image, size: int, box: Box) -> Image.Image:
    """A part of an RGB or RGBA image to RGB of size x size, transparency laid on white."""
    # Pillow resizes RGBA with its colours weighted by alpha, so this is what laying it on white
    # first would give, without two more copies of a large image.
    image = image.resize((size, size), _FILTER, box)
    if image.mode == "RGBA":
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image)
        image = canvas.convert("RGB")
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Integers or floats to grey, some rows at a time, since there may be 150 million of them."""
    width, height = image.size
    rows = max(2**22 // width, 1)
    bands = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    scale = 1 / 256
    if image.mode == "F":
        peak = max(float(np.nan_to_num(np.asarray(image.crop(band))).max()) for band in bands)
        scale = 255.0 / max(peak, 1.0)
    grey = Image.new("L", image.size)
    for band in bands:
        values = np.nan_to_num(np.asarray(image.crop(band)))
        grey.paste(Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8)), band)
    return grey


# -- JPEGs that break off ----------------------------------------------------------------------

#: A marker that ends a scan: not a stuffed byte, a restart or a filler.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_GREY = 128


def _rescue_jpeg(data: bytes, scale: int, part: Box, reason: str) -> tuple[Image.Image, str]:
    """What can be seen of a JPEG that breaks off, at a scale, and how much that is.

    Raises DecodeError(kind="unreadable") with the reason when it is too little of the part that
    matters.
    """
    several, end = _scans(data)
    if several:
        if not end:
            raise DecodeError("unreadable", reason)
        # With an end put to it, libjpeg shows the scans that it has.
        image = _open(data[:end].rstrip(b"\xff") + b"\xff\xd9")
        _scale(image, scale)
        image.load()
        return image, f"{reason}; its first scans could be read"
    image, rows = _decoded_rows(data, scale)
    share = f"{rows / image.height:.0%}"
    top, bottom = int(part[1] // scale), min(math.ceil(part[3] / scale), image.height)
    if (rows - top) * 2 < bottom - top:
        raise DecodeError("unreadable", f"{reason}; {share} of its rows could be read")
    image.paste(_GREY if image.mode == "L" else (_GREY,) * 3, (0, rows, *image.size))
    return image, f"{reason}; {share} of its rows could be read"


def _scans(data: bytes) -> tuple[bool, int]:
    """Whether a JPEG has several scans, and where what libjpeg can read of them ends.

    That is the end of the data, or of the last whole segment; 0 where the first scan is not whole,
    or the only one.
    """
    position, several, components, end = 2, False, 0, 0
    while position + 5 <= len(data):
        if data[position] != 0xFF or data[position + 1] == 0xFF:
            position += 1
            continue
        marker = data[position + 1]
        following = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xD9 or following > len(data):
            break
        if marker in (0xC2, 0xC6, 0xCA, 0xCE):
            several = True
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            components = data[position + 9] if position + 9 < len(data) else 0
        if marker == 0xDA:
            several = several or data[position + 4] < components
            if not several:
                return False, 0
            scan_end = _SCAN_END.search(data, following)
            if scan_end is None:
                return several, len(data) if end else 0
            following = scan_end.start()
            end = following
        elif end:
            end = following
        position = following
    return several, end


def _decoded_rows(data: bytes, scale: int) -> tuple[Image.Image, int]:
    """As much as libjpeg gives of a JPEG with one scan, as RGB or L, and how many rows that is."""
    image = _open(data)
    _scale(image, scale)
    assert isinstance(image, ImageFile.ImageFile)
    image.load_prepare()
    # Rows that still hold this noise afterwards were not written.
    shape = (image.width, len(image.getbands()))
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sheet = np.broadcast_to(noise, (image.height, *shape)).squeeze(axis=2 if shape[1] == 1 else ())
    noisy = Image.fromarray(np.ascontiguousarray(sheet), image.mode)
    image.im.paste(noisy.im, (0, 0, *image.size))
    with contextlib.suppress(OSError):
        image.load()
    image.tile = []  # what is there is all there will be
    untouched = (np.asarray(image) == sheet).reshape(image.height, -1).all(axis=1)
    rows = int(np.argmax(untouched)) if untouched.any() else image.height
    return image.convert("L" if image.mode == "L" else "RGB"), rows


# -- EXIF --------------------------------------------------------------------------------------


def _exif(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except Exception:  # a broken EXIF block makes no image unreadable
        return Image.Exif()


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
    except Exception:
        return None
    return moment.isoformat() + (offset if _OFFSET.match(offset) else "")


# -- Files that Pillow does not know -----------------------------------------------------------

#: How the formats begin that we read. What begins so and is not known to Pillow is broken.
_BEGINNINGS = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("BMP", re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL)),
    ("AVIF", re.compile(rb"....ftypavi[fs]", re.DOTALL)),
)
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
_BRANDS = {
    **dict.fromkeys(("heic", "heix", "mif1"), "an HEIF image"),
    **dict.fromkeys(("avif", "avis"), "an AVIF image"),
    "crx": "a camera raw file",
}


def _unidentified(data: bytes) -> DecodeError:
    """What a file is that Pillow does not know."""
    for name, beginning in _BEGINNINGS:
        if name in _formats() and beginning.match(data):
            return DecodeError("unreadable", f"the header of this {name} cannot be read")
    if data[:4] in (b"II*\0", b"MM\0*") and not _has_directory(data):
        return DecodeError("unreadable", "this TIFF breaks off")
    return DecodeError("unsupported", f"not an image: {_describe(data)}")


#: Bytes of a value in a TIFF's directory, by its type.
_TIFF_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)


def _has_directory(data: bytes) -> bool:
    """Whether a TIFF's first directory, which tells what it is, and its values lie in the file."""
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


def _is_raw(image: Image.Image) -> bool:
    """Whether this is a small preview that Pillow found in a camera raw file."""
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


_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")


def _one_line(error: Exception) -> str:
    text = _OBJECT.sub("the file", " ".join(str(error).split())) or type(error).__name__
    return text[:200]
