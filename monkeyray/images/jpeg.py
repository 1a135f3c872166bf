"""JPEGs: decoded at a reduced scale, with damage reported, and salvaged when truncated."""

from __future__ import annotations

import contextlib
import math
import re

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from monkeyray.errors import DecodeError
from monkeyray.images.formats import open_image
from monkeyray.images.views import Box

#: A marker that ends a scan: not a stuffed byte, a restart marker or a filler.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_GREY = 128

#: The libjpeg warnings that indicate corrupt pixel data. It also warns of harmless things, such as
#: a few bytes of padding before the end.
_DAMAGE = re.compile(
    r"premature end of data segment|bad Huffman code|found marker 0x\w+ instead of RST\d"
    r"|\d{2,} extraneous bytes before marker 0xd[0-79]"
)


def smallest_scale(region: Box, size: int) -> int:
    """The largest divisor of libjpeg at which a region of an image still covers `size` pixels."""
    left, top, right, bottom = region
    times = min(right - left, bottom - top) / size
    return next((scale for scale in (8, 4, 2) if times >= scale), 1)


def set_scale(image: Image.Image, scale: int) -> None:
    """Make libjpeg decode at 1, 1/2, 1/4 or 1/8 of the size; `scale` is the divisor."""
    if isinstance(image, ImageFile.ImageFile):
        size = (image.width // scale, image.height // scale)
        image.draft("RGB" if image.mode != "L" else "L", size)


def load(image: Image.Image, data: bytes, scale: int) -> tuple[Image.Image, str | None]:
    """Decode a JPEG that Pillow has opened at 1 / `scale` of its size; also describes any damage in
    its data. Raises OSError if it ends early."""
    damage = None
    if image.mode in ("RGB", "L"):
        # The pixels are Pillow's, but Pillow hides warnings, and takes longer.
        size = tuple(-(-side // scale) for side in image.size)
        try:
            pixels = simplejpeg.decode_jpeg(
                data,
                "RGB" if image.mode == "RGB" else "GRAY",
                min_width=size[0],
                min_height=size[1],
            )
            if pixels.shape[1::-1] == size:
                return Image.fromarray(pixels if image.mode == "RGB" else pixels[:, :, 0]), None
        except ValueError as error:
            found = _DAMAGE.search(str(error))
            damage = found and found[0]
    set_scale(image, scale)
    image.load()
    return image, damage


def rescue(data: bytes, scale: int, region: Box, reason: str) -> tuple[Image.Image, str]:
    """The readable part of a truncated JPEG at a scale, the rest grey, and how much that is.

    Half of the region's rows suffice, or the first scan of a progressive JPEG. Raises
    DecodeError(kind="unreadable") with the reason if there is less.
    """
    several, end = _scans(data)
    if several:
        if not end:
            raise DecodeError("unreadable", reason)
        # With an end marker, libjpeg shows the scans that are there.
        image = open_image(data[:end].rstrip(b"\xff") + b"\xff\xd9")
        set_scale(image, scale)
        image.load()
        return image, f"{reason}; its first scans could be read"
    image, rows = _decoded_rows(data, scale)
    share = f"{rows / image.height:.0%}"
    top, bottom = int(region[1] // scale), min(math.ceil(region[3] / scale), image.height)
    if (rows - top) * 2 < bottom - top:
        raise DecodeError("unreadable", f"{reason}; {share} of its rows could be read")
    image.paste(_GREY if image.mode == "L" else (_GREY,) * 3, (0, rows, *image.size))
    return image, f"{reason}; {share} of its rows could be read"


def _scans(data: bytes) -> tuple[bool, int]:
    """Whether a JPEG has several scans, and how many of its bytes libjpeg can read.

    That is up to the end of the data or of the last whole segment; 0 if not even the first scan is
    whole, or there is only one.
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
    """The rows of a single-scan JPEG that libjpeg can decode, as RGB or L, and their number."""
    image = open_image(data)
    set_scale(image, scale)
    assert isinstance(image, ImageFile.ImageFile)
    image.load_prepare()
    # Rows that still hold this noise afterwards were not decoded.
    shape = (image.width, len(image.getbands()))
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    sheet = np.broadcast_to(noise, (image.height, *shape)).squeeze(axis=2 if shape[1] == 1 else ())
    noisy = Image.fromarray(np.ascontiguousarray(sheet), image.mode)
    image.im.paste(noisy.im, (0, 0, *image.size))
    with contextlib.suppress(OSError):
        image.load()
    image.tile = []  # Pillow would try again
    untouched = (np.asarray(image) == sheet).reshape(image.height, -1).all(axis=1)
    rows = int(np.argmax(untouched)) if untouched.any() else image.height
    return image.convert("L" if image.mode == "L" else "RGB"), rows
