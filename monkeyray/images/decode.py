"""Bytes to pixels: the one decoder of training and scoring."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from monkeyray.arrays import Bytes
from monkeyray.errors import DecodeError
from monkeyray.images.ancillary import without_ancillary
from monkeyray.images.boxes import crop_of
from monkeyray.images.exif import as_stored, captured_at, read_exif, swaps_sides, turn_of
from monkeyray.images.formats import is_raw_preview, open_image, unidentified
from monkeyray.images.jpeg import load, rescue, smallest_scale
from monkeyray.images.views import VIEWS, Box, View
from monkeyray.statistics.fingerprints import grey_thumbnail

#: Bump when decoded pixels change, so that cached features are not mixed.
DECODE_VERSION = 3

#: Antialiased.
_FILTER = Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Limits:
    """Limits on the cost of one image.

    Images with more than `max_bytes` or `max_pixels` are refused from the header alone. A decoder
    that runs longer than `decode_seconds` is killed. After `max_refused` consecutive missing or
    forbidden images, the store is assumed to be at fault.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 150_000_000
    decode_seconds: float = 60.0
    max_refused: int = 1000


@dataclass(frozen=True)
class Decoded:
    """An image as backbones see it.

    `pixels`: uint8 RGB of shape (views, size, size, 3), 0-255. `width` and `height`: of the
    original in pixels, as displayed (EXIF orientation applied). `captured_at`: EXIF local time in
    ISO 8601, with an offset only if EXIF has one. `status`: ok; truncated if only
    part of it could be read, the rest is grey; damaged if some pixels are wrong. `error`: the
    reason. `thumbnail`: the whole frame for finding duplicates, if requested.
    """

    pixels: Bytes
    width: int
    height: int
    captured_at: str | None
    status: str = "ok"
    error: str | None = None
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
    antialiased bilinear filter. Of a sequence the first frame is used; transparency is laid on
    white. Half of the rows of a truncated JPEG suffice, or the first scan of a progressive one.

    `bbox`: left, top, width and height as shares of the upright image. Its crop with `padding`, see
    boxes.crop_of, then takes the image's place: for the views, for the scale, and for the rows that
    suffice. Without views only the header is read.

    Raises DecodeError with kind empty, unsupported, unreadable or too_large.
    """
    if not data:
        raise DecodeError("empty", "the file has no bytes")
    if len(data) > limits.max_bytes:
        raise DecodeError("too_large", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    chosen = [VIEWS[view] for view in views]
    faults: list[Exception] = []
    with warnings.catch_warnings():
        # Pillow warns of bombs and odd EXIF; the limits decide instead.
        warnings.simplefilter("ignore")
        for part in itertools.chain([data], without_ancillary(data)):
            try:
                return _decode(part, size, limits, chosen, thumbnails, bbox, padding)
            except (DecodeError, MemoryError):
                raise
            except Image.DecompressionBombError:  # Pillow's own bound, some 179 million pixels
                raise DecodeError("too_large", "more pixels than Pillow reads") from None
            except Exception as error:  # Pillow raises almost anything for broken files
                faults.append(error)
    if isinstance(faults[0], UnidentifiedImageError):
        raise unidentified(data)
    raise DecodeError("unreadable", _one_line(faults[0]))


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
        # Pillow allocates this canvas when it opens the file, so its size is checked before.
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        _check_pixels(width, height, limits)
    with open_image(data) as image:
        width, height = image.size
        _check_pixels(width, height, limits)
        if is_raw_preview(image):
            raise DecodeError("unsupported", "not an image: a camera raw file")
        status, error = "ok", None
        jpeg = image.format in ("JPEG", "MPO")
        if not jpeg:
            # Before its EXIF, for which Pillow loads a PNG and fails only once for a broken one.
            image.load()
            width, height = image.size
        exif = read_exif(image)
        taken_at, turn = captured_at(exif), turn_of(image, exif)
        upright = (height, width) if swaps_sides(turn) else (width, height)
        if not views:
            return Decoded(np.empty((0, size, size, 3), np.uint8), *upright, taken_at)
        region: Box = (0, 0, width, height)
        if bbox is not None:
            region = as_stored(crop_of(bbox, padding, *upright), turn, *upright)
        scale = smallest_scale(region, size) if jpeg else 1
        if jpeg:
            try:
                image, error = load(image, data, scale)
                status = "damaged" if error else "ok"
            except OSError as cut:
                image, error = rescue(data, scale, region, _one_line(cut))
                status = "truncated"
        image = _colours(image)
        if bbox is None:
            region = (0, 0, *image.size)
        else:
            region = tuple(  # type: ignore[assignment]
                min(edge / scale, end) for edge, end in zip(region, image.size * 2, strict=True)
            )
        boxes = [_box_in(region, view) for view in views]
        whole = VIEWS["whole"].box(*image.size)
        wanted = [*boxes, whole] if thumbnails else boxes
        squares = {box: _square(image, size, box) for box in wanted}
    if turn is not None:
        # Turning the squares gives the same and is cheaper. Not with Pillow's exif_transpose, which
        # rewrites the EXIF and fails if it is malformed.
        squares = {box: square.transpose(turn) for box, square in squares.items()}
    pixels = np.stack([np.asarray(squares[box]) for box in boxes])
    for index, view in enumerate(views):
        if view.mirrored:
            pixels[index] = pixels[index, :, ::-1].copy()
    small = grey_thumbnail(squares[whole]) if thumbnails else None
    return Decoded(pixels, *upright, taken_at, status, error, small)


def _box_in(region: Box, view: View) -> Box:
    """The box of a view of a region, in pixels of the image."""
    left, top, right, bottom = region
    inner = view.box(right - left, bottom - top)
    return left + inner[0], top + inner[1], left + inner[2], top + inner[3]


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise DecodeError(
            "too_large", f"{width} x {height} pixels, the limit is {limits.max_pixels}"
        )


def _colours(image: Image.Image) -> Image.Image:
    """Any mode to RGB, or RGBA where something is transparent; 16 bits are scaled down."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    # Pillow would copy it, which takes up to half a gigabyte.
    return image if image.mode == mode else image.convert(mode)


def _square(image: Image.Image, size: int, box: Box) -> Image.Image:
    """A box of an RGB or RGBA image as RGB of size x size, transparency laid on white."""
    # Pillow weights colours by alpha when it resizes RGBA, so laying it on white first would give
    # the same, with two more copies of a large image.
    image = image.resize((size, size), _FILTER, box)
    if image.mode == "RGBA":
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image)
        image = canvas.convert("RGB")
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Integers or floats to grey, some rows at a time to limit memory."""
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


_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")


def _one_line(error: Exception) -> str:
    text = _OBJECT.sub("the file", " ".join(str(error).split())) or type(error).__name__
    return text[:200]
