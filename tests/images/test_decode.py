"""One decoder: every kind of image, and every kind of rubbish."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from monkeyray.errors import DecodeError
from monkeyray.images.decode import Decoded, Limits, decode
from tests.support.pictures import encode, picture

JPEG = encode(picture(64, 48))
PNG = encode(picture(64, 48), "PNG")


@given(st.binary(max_size=300))
def test_any_bytes_are_an_image_or_a_decode_error(data: bytes) -> None:
    _decode_or_error(data)


@given(st.sampled_from([JPEG, PNG]), st.integers(0, 10**6), st.integers(0, 10**6), st.booleans())
def test_damaged_images_are_an_image_or_a_decode_error(
    data: bytes, offset: int, bit: int, cut: bool
) -> None:
    if cut:
        data = data[: offset % len(data)]
    else:
        broken = bytearray(data)
        broken[offset % len(data)] ^= 1 << (bit % 8)
        data = bytes(broken)
    _decode_or_error(data)


def _decode_or_error(data: bytes) -> None:
    try:
        image = decode(data, 32, Limits(max_pixels=10**6))
    except DecodeError as failure:
        kind, reason = failure.kind, str(failure)
    else:
        assert image.pixels[0].shape == (32, 32, 3)
        return
    assert kind in ("empty", "unsupported", "unreadable", "too_large")
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("mode", "format_"),
    [
        ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("P", "PNG"), ("RGBA", "PNG"),
        ("LA", "PNG"), ("1", "PNG"), ("I;16", "PNG"), ("RGB", "WEBP"), ("P", "GIF"),
        ("RGB", "TIFF"), ("RGB", "BMP"),
    ],
)  # fmt: skip
def test_modes_and_formats(mode: str, format_: str) -> None:
    image = picture()
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(grey)
    else:
        image = image.convert(mode)
    decoded = decode(encode(image, format_), 96)
    assert decoded.pixels[0].shape == (96, 96, 3)
    assert decoded.pixels[0].dtype == np.uint8
    grey = np.asarray(picture().convert("L").resize((96, 96), Image.Resampling.BILINEAR))
    ours = np.asarray(Image.fromarray(decoded.pixels[0]).convert("L"))
    # A dithered or quantised copy differs point by point, not in the mean.
    assert abs(float(ours.mean()) - float(grey.mean())) < 25


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    upright = picture()
    stored = upright.transpose(turns[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encode(stored, quality=95, exif=exif), 224)
    plain = decode(encode(upright, quality=95), 224)
    assert (decoded.width, decoded.height) == (640, 480)
    difference = np.abs(decoded.pixels[0].astype(int) - plain.pixels[0].astype(int))
    assert difference.mean() < 2


def reconyx(*values: int, order: str = "<") -> bytes:
    return struct.pack("<11H", 0xF101, *[7] * 10) + struct.pack(f"{order}6H", *values) + bytes(20)


ORIGINAL, DIGITIZED, NOTE, OFFSET, OTHER_OFFSET = 0x9003, 0x9004, 0x927C, 0x9011, 0x9012
TIME, EVENING = "2021:05:31 08:25:38", "2019-01-05T19:03:02"


@pytest.mark.parametrize(
    ("tags", "time"),
    [
        ({ORIGINAL: TIME}, "2021-05-31T08:25:38"),
        ({ORIGINAL: TIME, OFFSET: "+02:00"}, "2021-05-31T08:25:38+02:00"),
        ({ORIGINAL: "2019:01:05 07:03:02 PM"}, EVENING),
        ({ORIGINAL: "2019:01:05 12:03:02 am"}, "2019-01-05T00:03:02"),
        ({ORIGINAL: "2019:01:05 12:03:02PM"}, "2019-01-05T12:03:02"),
        ({ORIGINAL: "2019:01:05 19:03:02 PM"}, EVENING),
        ({ORIGINAL: "2019:01:05 19:03:02+02:00", OFFSET: "+01:00"}, EVENING + "+02:00"),
        ({ORIGINAL: "2019:01:05 19:03:02.25Z"}, EVENING + "+00:00"),
        ({DIGITIZED: TIME, OFFSET: "+02:00"}, "2021-05-31T08:25:38"),
        ({ORIGINAL: "    :  :     :  :  ", DIGITIZED: TIME}, "2021-05-31T08:25:38"),
        ({ORIGINAL: "0000:00:00 00:00:00", DIGITIZED: TIME, OTHER_OFFSET: "-03:00"},
         "2021-05-31T08:25:38-03:00"),
        ({NOTE: reconyx(2, 3, 19, 1, 5, 2019)}, EVENING),
        ({NOTE: reconyx(2, 3, 19, 1, 5, 2019), ORIGINAL: TIME}, "2021-05-31T08:25:38"),
        ({NOTE: reconyx(2, 3, 19, 1, 5, 2019, order=">")}, EVENING),
        ({NOTE: reconyx(2, 3, 19, 13, 5, 2019)}, None),
        ({NOTE: reconyx(512, 3, 19, 1, 5, 2019)}, None),
        ({NOTE: reconyx(2, 3, 19, 1, 5, 2019)[:30]}, None),
        ({NOTE: b"RECONYXH2\0" + bytes(40)}, None),
        ({ORIGINAL: "0000:00:00 00:00:00"}, None),
        ({ORIGINAL: "yesterday"}, None),
    ],
)  # fmt: skip
def test_times(tags: dict[int, str | bytes], time: str | None) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(tags)
    assert decode(encode(picture(), exif=exif), 32).captured_at == time


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", "empty", "no bytes"),
        (b"<html>404", "unsupported", "HTML"),
        (b"PK\x03\x04" + b"x" * 99, "unsupported", "zip"),
        (b"\0\0\0\x18ftypmp42" + b"x" * 99, "unsupported", "video"),
        (JPEG[: len(JPEG) - 400], "unreadable", "truncated"),
    ],
)
def test_rubbish_is_named(data: bytes, kind: str, words: str) -> None:
    with pytest.raises(DecodeError, match=words) as error:
        decode(data, 32)
    assert error.value.kind == kind


def test_limits_are_decided_from_the_header() -> None:
    with pytest.raises(DecodeError, match="640 x 480") as pixels:
        decode(encode(picture()), 32, Limits(max_pixels=1000))
    with pytest.raises(DecodeError, match="bytes") as size:
        decode(JPEG, 32, Limits(max_bytes=10))
    assert pixels.value.kind == size.value.kind == "too_large"


def test_scaled_decode_is_close_to_a_full_one() -> None:
    large = picture(2048, 1536)
    decoded: Decoded = decode(encode(large, quality=95), 224)
    full = np.asarray(large.resize((224, 224), Image.Resampling.BILINEAR))
    assert np.abs(decoded.pixels[0].astype(int) - full.astype(int)).mean() < 3
