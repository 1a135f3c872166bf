"""Ancillary parts, odd or large, never make an image unreadable."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from monkeyray.errors import DecodeError
from monkeyray.images.decode import decode
from tests.support.pictures import encode, picture

TIME = "2021-05-31T08:25:38"
LARGE = zlib.compress(bytes(3 << 20))


def exif() -> Image.Exif:
    """EXIF with a time, and the orientation of a picture turned by 180 degrees."""
    block = Image.Exif()
    block[0x0112] = 3
    block.get_ifd(0x8769)[0x9003] = "2021:05:31 08:25:38"
    return block


def chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    sum_ = zlib.crc32(name + body) if crc is None else crc
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", sum_)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def check(odd: bytes, plain: bytes, taken: str | None = TIME) -> None:
    found, expected = decode(odd, 96), decode(plain, 96)
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert (found.captured_at, found.status) == (taken, "ok")


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"zTXt", b"k\0\0" + LARGE),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
        chunk(b"iCCP", b"k\0\0" + LARGE),
        chunk(b"iCCP", b"k\0\7"),
        *(chunk(name, b"x") for name in (b"cHRM", b"pHYs", b"gAMA", b"acTL", b"fcTL", b"fdAT")),
        chunk(b"sRGB", b""),
        chunk(b"tEXt", b"a\0b", crc=0),
        chunk(b"prVt", b"ours", crc=0),
    ],
    ids=lambda data: data[4:8].decode(),
)
@pytest.mark.parametrize("at", [33, -12], ids=["first", "last"])
def test_png_chunks(odd: bytes, at: int) -> None:
    plain = encode(picture(), "PNG", exif=exif())
    check(plain[:at] + odd + plain[at:], plain)


def test_odd_transparency_of_a_png_is_dropped() -> None:
    plain = encode(picture(), "PNG")
    check(plain[:33] + chunk(b"tRNS", b"x") + plain[33:], plain, None)


@pytest.mark.parametrize(
    "odd",
    [
        segment(0xE0, b"JFIF\0"), segment(0xE2, b"ICC_PROFILE\0"), segment(0xEE, b"Adobe"),
        segment(0xEE, b"Adobe\0"),
    ],
    ids=["JFIF", "ICC", "Adobe", "Adobe-short"],
)  # fmt: skip
def test_jpeg_segments(odd: bytes) -> None:
    plain = encode(picture(), exif=exif())
    check(plain[:2] + odd + plain[2:], plain)


def test_webp_chunks() -> None:
    plain = encode(picture(), "WEBP", exif=exif())
    check(plain + b"XMP \0\0\1\0cut", plain)
    check(plain[:12] + b"ours\2\0\0\0ab" + plain[12:], plain)
    with pytest.raises(DecodeError):
        decode(plain[:12] + b"ours\2\0\0\0ab" + plain[12:-2000], 96)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [(270, 2, 100_000, 10**7), (271, 5, 1, 10**7), (700, 3, 2, 5), (34675, 7, 10**9, 4)],
    ids=["description", "make", "XMP", "ICC"],
)
def test_tiff_tags(compression: str, tag: int, kind: int, count: int, value: int) -> None:
    plain = encode(picture(), "TIFF", compression=compression, exif=exif())
    (start,) = struct.unpack_from("<I", plain, 4)
    (entries,) = struct.unpack_from("<H", plain, start)
    lines = [plain[start + 2 + 12 * i :][:12] for i in range(entries)]
    lines = sorted([*lines, struct.pack("<HHII", tag, kind, count, value)],
                   key=lambda line: struct.unpack_from("<H", line))  # fmt: skip
    place = len(plain) + len(plain) % 2
    directory = struct.pack("<H", len(lines)) + b"".join(lines) + bytes(4)
    odd = plain[:4] + struct.pack("<I", place) + plain[8:].ljust(place - 8, b"\0") + directory
    check(odd, plain, None)
