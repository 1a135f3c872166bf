"""Boxes: the crop around them, and its pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from monkeyray.errors import DecodeError
from monkeyray.images.boxes import crop_of
from monkeyray.images.decode import Decoded, decode
from tests.support.pictures import encode

SHARES = st.floats(0, 1, allow_nan=False)


@given(SHARES, SHARES, SHARES, SHARES, st.floats(0, 1), st.integers(1, 5000), st.integers(1, 5000))
def test_a_crop_holds_its_box_and_is_a_square_if_there_is_room(
    x: float, y: float, w: float, h: float, padding: float, width: int, height: int
) -> None:
    bbox = (x, y, w * (1 - x), h * (1 - y))
    left, top, right, bottom = crop_of(bbox, padding, width, height)
    assert 0 <= left < right <= width * (1 + 1e-9)
    assert 0 <= top < bottom <= height * (1 + 1e-9)
    slack = 1e-6 * (width + height)
    assert left <= bbox[0] * width + slack
    assert right >= (bbox[0] + bbox[2]) * width - slack
    assert top <= bbox[1] * height + slack
    assert bottom >= (bbox[1] + bbox[3]) * height - slack
    side = max(bbox[2] * width, bbox[3] * height, 1) * (1 + 2 * padding)
    assert right - left == pytest.approx(min(side, width), rel=1e-6, abs=slack)
    assert bottom - top == pytest.approx(min(side, height), rel=1e-6, abs=slack)


def test_padding_is_a_share_of_the_longer_side_and_the_crop_is_moved_into_the_image() -> None:
    # 100 x 50 pixels at the left edge: 120 wide and high, about y = 75, pushed from x = -10 to 0.
    assert crop_of((0, 0.25, 0.25, 0.25), 0.1, 400, 200) == pytest.approx((0, 15, 120, 135))
    assert crop_of((0.1, 0.2, 0.3, 0.4), 0, 100, 100) == pytest.approx((5, 20, 45, 60))
    # Wider than the image is high.
    assert crop_of((0.2, 0.2, 0.5, 0.1), 0.1, 400, 200) == pytest.approx((60, 0, 300, 200))
    # A detector's last digit may lie outside.
    assert crop_of((-0.001, 0, 1.002, 1), 0, 100, 100) == (0, 0, 100, 100)


def scene(width: int, height: int) -> Image.Image:
    """A picture that looks different everywhere, and has no mirror image in itself."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [x * 255 / width, y * 255 / height, 127 + 120 * np.sin(x / 37 + y / 23)]
    image = Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((width // 2, height // 3, width * 3 // 4, height // 2), "red")
    return image


def expect(data: bytes, bbox: Sequence[float], size: int) -> np.ndarray:
    """The crop, cut out of the whole image as Pillow shows it upright, then made small."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    box = crop_of(bbox, 0.1, *upright.size)
    return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR, box)).astype(int)


def crop(data: bytes, bbox: Sequence[float], size: int = 64, **options: object) -> Decoded:
    return decode(data, size, bbox=bbox, padding=0.1, **options)  # type: ignore[arg-type]


BBOX = (0.55, 0.2, 0.3, 0.35)


def test_a_crop_is_that_of_the_whole_image() -> None:
    png = encode(scene(900, 700), "PNG")
    np.testing.assert_array_equal(crop(png, BBOX).pixels[0], expect(png, BBOX, 64))
    # Of a JPEG at whatever scale: boxes from nearly all of it to a few pixels.
    jpeg = encode(scene(1600, 1200), quality=95)
    for share in (0.9, 0.5, 0.2, 0.05, 0.001):
        bbox = (0.1 * (1 - share), 0.7 * (1 - share), share, share)
        difference = np.abs(crop(jpeg, bbox).pixels[0] - expect(jpeg, bbox, 64))
        assert difference.mean() < 2.5


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_of_the_upright_image(orientation: int, format_: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if format_ == "JPEG" else {}
    data = encode(scene(900, 600), format_, exif=exif, **options)
    found = crop(data, BBOX)
    assert np.abs(found.pixels[0] - expect(data, BBOX, 64)).mean() < 2
    assert (found.width, found.height) == ((900, 600) if orientation < 5 else (600, 900))


def test_jpegs_are_decoded_at_the_smallest_scale_that_covers_the_crop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[tuple[int, int]] = []
    colours = decode.__globals__["_colours"]

    def note(image: Image.Image) -> Image.Image:
        loaded.append(image.size)
        return colours(image)  # type: ignore[no-any-return]

    monkeypatch.setitem(decode.__globals__, "_colours", note)
    data = encode(scene(2048, 1536))  # three megapixels
    for share, scale in ((1, 4), (0.59, 4), (0.58, 2), (0.3, 2), (0.29, 1), (0.01, 1)):
        decode(data, 224, bbox=(0.2, 0, 0.01, share))
        assert loaded[-1] == (2048 // scale, 1536 // scale)
        assert scale == 1 or share * 1536 / scale >= 224


def test_views_are_those_of_the_crop() -> None:
    data = encode(scene(800, 600), "PNG")
    plain, mirrored = crop(data, BBOX, views=("whole", "whole-mirrored")).pixels
    np.testing.assert_array_equal(plain[:, ::-1], mirrored)
    # A box as wide as the image: its crop is all of it, of which `square` is the middle.
    whole = (0, 0, 1, 1)
    square = crop(data, whole, views=("square",)).pixels
    np.testing.assert_array_equal(square, decode(data, 64, views=("square",)).pixels)


def test_half_of_the_rows_of_the_box_suffice_in_a_truncated_jpeg() -> None:
    data = encode(scene(1200, 1200), quality=95)
    data = data[: len(data) // 3]
    upper, lower = (0.1, 0.02, 0.2, 0.1), (0.1, 0.8, 0.2, 0.1)
    with pytest.raises(DecodeError, match="rows"):
        decode(data, 64)
    found = crop(data, upper)
    assert found.status == "truncated"
    whole = encode(scene(1200, 1200), quality=95)
    assert np.abs(found.pixels[0] - expect(whole, upper, 64)).mean() < 2
    with pytest.raises(DecodeError, match="rows"):
        crop(data, lower)


def test_without_views_only_the_header_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2021:05:31 08:25:38"
    data = encode(scene(640, 480), exif=exif)
    half = decode(data[: len(data) // 2], 64, views=())
    assert half.pixels.shape == (0, 64, 64, 3)
    assert (half.width, half.height, half.captured_at) == (480, 640, "2021-05-31T08:25:38")
    with pytest.raises(DecodeError):
        decode(b"rubbish", 64, views=())
