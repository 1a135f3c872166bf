"""Views: the crops, by the pixels that they cover."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from monkeyray.images.decode import decode
from monkeyray.images.views import COUNTS, CROPS, VIEWS, View, choose_views


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1))
def test_crops_lie_within_and_about_the_middle(width: int, height: int, squareness: float) -> None:
    left, top, right, bottom = View(squareness).box(width, height)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)
    wanted = (width / height) ** (1 - squareness)
    assert (right - left) / (bottom - top) == pytest.approx(wanted, rel=1e-6)


def test_whole_centre_and_square_views() -> None:
    boxes = [VIEWS[crop].box(900, 400) for crop in ("whole", "middle", "square")]
    expected = [(0, 0, 900, 400), (150, 0, 750, 400), (250, 0, 650, 400)]
    for box, its in zip(boxes, expected, strict=True):
        assert box == pytest.approx(its)
    assert VIEWS["square"].box(400, 900) == pytest.approx((0, 250, 400, 650))


def test_every_number_of_views_begins_with_the_crop() -> None:
    for crop in CROPS:
        for count in COUNTS:
            views = choose_views(crop, count)
            assert len(set(views)) == count
            assert views[0] == crop
            assert choose_views(crop, max(COUNTS))[:count] == views
            assert set(views) <= set(VIEWS)


def test_decode_gives_each_view_of_the_picture_as_it_is_displayed() -> None:
    # A ramp from left to right: what a crop covers is what its values span.
    ramp = np.tile(np.linspace(0, 255, 900)[None, :, None], (400, 1, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(ramp).save(out, "PNG")
    views = ("whole", "middle", "middle-mirrored", "square")
    whole, middle, mirrored, square = decode(out.getvalue(), 100, views=views).pixels.astype(int)
    for pixels, cut in ((whole, 0), (middle, 150), (square, 250)):
        assert pixels[:, 0].mean() == pytest.approx(255 * cut / 900, abs=3)
        assert pixels[:, -1].mean() == pytest.approx(255 * (900 - cut) / 900, abs=3)
    np.testing.assert_array_equal(mirrored, middle[:, ::-1])

    # Turned by EXIF: the crop is of the displayed picture, and mirrored left to right there.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(out := io.BytesIO(), "JPEG", quality=98, exif=exif)
    turned = decode(out.getvalue(), 100, views=views)
    assert (turned.width, turned.height) == (400, 900)
    for pixels, cut in ((turned.pixels[1], 150), (turned.pixels[2], 150), (turned.pixels[3], 250)):
        assert pixels[0].mean() == pytest.approx(255 * cut / 900, abs=4)
        assert pixels[-1].mean() == pytest.approx(255 * (900 - cut) / 900, abs=4)
