"""Which images to look at, and their thumbnails."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from monkeyray.errors import DecodeError
from monkeyray.images.decode import Limits
from monkeyray.pages.thumbnails import least_certain, thumbnail, worst_mistakes
from tests.support.hostile import hostile_files
from tests.support.pictures import encode


def test_worst_mistakes_by_hand() -> None:
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.99, 0.01]])
    truth = np.array([1, 1, 0, 1, 0])
    assert worst_mistakes(truth, probabilities).tolist() == [1, 2, 0, 3]
    assert worst_mistakes(truth, probabilities, 2).tolist() == [1, 2]
    assert worst_mistakes(np.array([0, 0, 1, 0, 0]), probabilities).tolist() == []


def test_least_certain_by_hand() -> None:
    probabilities = np.array(
        [[0.5, 0.25, 0.25], [0.4, 0.4, 0.2], [0, 0.25, 0.75], [0, 0.375, 0.625]]
    )
    assert least_certain(probabilities).tolist() == [1, 0, 3, 2]
    assert least_certain(probabilities, 1).tolist() == [1]
    assert least_certain(np.empty((0, 3))).tolist() == []


@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(2, 6), st.integers(0, 50))
def test_galleries_hold_what_they_say(seed: int, images: int, labels: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(labels), images).round(1)
    truth = rng.integers(0, labels, images)
    wrong = worst_mistakes(truth, probabilities, limit)
    predicted, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    assert (predicted[wrong] != truth[wrong]).all()
    assert len(set(wrong.tolist())) == len(wrong) == min(limit, (predicted != truth).sum())
    assert (np.diff(scores[wrong]) <= 0).all()
    unsure = least_certain(probabilities, limit)
    best = np.sort(probabilities, axis=1)
    margins = best[:, -1] - best[:, -2]
    assert len(set(unsure.tolist())) == len(unsure) == min(limit, images)
    assert margins[unsure].tolist() == np.sort(margins)[:limit].tolist()


def _picture(uri: str) -> Image.Image:
    kind, content = uri.split(",", 1)
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert image.format == "JPEG"
    return image


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (160, 120)),
        ((300, 900), (53, 160)),
        ((40, 30), (160, 120)),
        ((4000, 1), (160, 1)),
        ((1, 1), (160, 160)),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_thumbnails_keep_the_shape(
    size: tuple[int, int], expected: tuple[int, int], mode: str
) -> None:
    image = _picture(thumbnail(encode(Image.new("RGB", size, "red").convert(mode))))
    assert image.size == expected
    assert image.mode == "RGB"


def test_thumbnails_show_the_whole_frame_upright() -> None:
    image = Image.new("RGB", (400, 200), "white")
    image.paste("red", (0, 0, 400, 20))  # along the upper edge
    image.paste("blue", (0, 0, 20, 200))  # and down the left one
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned a quarter clockwise
    shown = _picture(thumbnail(encode(image, quality=95, exif=exif), side=100))
    assert shown.size == (50, 100)
    red, green, blue = shown.getpixel((47, 60))  # type: ignore[misc]  # the upper edge is right
    assert red > 200 > 90 > max(green, blue)
    red, green, blue = shown.getpixel((20, 2))  # type: ignore[misc]  # the left edge is above
    assert blue > 200 > 90 > max(red, green)


def test_transparency_is_white() -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert _picture(thumbnail(encode(image, "PNG"))).getpixel((80, 80)) == (255, 255, 255)


def test_limits_and_kinds_are_those_of_decode() -> None:
    data = encode(Image.new("RGB", (100, 100)))
    for broken, kind in ((b"", "empty"), (b"<html>", "unsupported"), (data[:200], "unreadable")):
        with pytest.raises(DecodeError) as raised:
            thumbnail(broken)
        assert raised.value.kind == kind
    with pytest.raises(DecodeError, match="limit is 9999"):
        thumbnail(data, limits=Limits(max_pixels=9999))


def test_hostile_files_give_a_thumbnail_or_an_error(photos: Path) -> None:
    photo = next((photos / "n0").iterdir()).read_bytes()
    seen = 0
    for name, (data, right) in hostile_files(photo).items():
        came: str = "ok"
        sides: tuple[int, ...] = (64,)
        try:
            sides = _picture(thumbnail(data, side=64)).size
            seen += 1
        except DecodeError as error:
            came = error.kind
        assert max(sides) == 64, name
        assert came in right or (came == "ok" and "truncated" in right), name
    assert seen > 50


def test_thumbnails_of_photographs_are_small(photos: Path) -> None:
    sizes = [len(thumbnail(path.read_bytes())) for path in sorted((photos / "n5").iterdir())[:20]]
    assert max(sizes) < 16_000  # so that a report with a hundred is still sent by mail
