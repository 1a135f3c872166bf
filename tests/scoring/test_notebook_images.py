from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from monkeyray.errors import DecodeError, InputError
from monkeyray.images.decode import decode
from monkeyray.scoring.notebook import one_by_one, to_file, uri_of


@pytest.mark.parametrize(
    "column",
    [
        list,
        tuple,
        iter,
        pd.Series,
        lambda items: pd.Series(items, dtype="string"),
        pa.array,
        lambda items: pa.chunked_array([items[:1], items[1:]], pa.large_string()),
        lambda items: np.array(items, object),
    ],
)
def test_columns_of_any_kind(column: Callable[..., Any]) -> None:
    given = ["b.jpg", None, "a.jpg"]
    assert list(one_by_one(column(given))) == given


def test_single_image_is_not_iterated() -> None:
    image = Image.new("RGB", (3, 2))
    array = np.zeros((2, 3, 3), np.uint8)
    for one in ("a.jpg", Path("a.jpg"), b"bytes", bytearray(b"bytes"), image, array):
        (item,) = one_by_one(one)
        assert item is one
    assert [item.shape for item in one_by_one(np.stack([array] * 2))] == [(2, 3, 3)] * 2  # type: ignore[union-attr]
    assert [uri_of(one) for one in (b"x", image, array, None)] == [None] * 4
    assert uri_of(Path("/a/\udcff.jpg")) == "file:///a/%FF.jpg"


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (3, "images is a int: give a path or URI, bytes"),
        ({"uri": ["a.jpg"]}, "images is a dict: give one column of it"),
        (pd.DataFrame({"uri": ["a.jpg"]}), "images is a DataFrame: give one column"),
        (pa.table({"uri": ["a.jpg"]}), "images is a Table: give one column"),
        (["a.jpg", 3], "image 1 is a int: give a path"),
        (np.zeros((2, 3)), r"image 0 is an array of float64 of shape \(2, 3\): give uint8 RGB"),
        ([np.zeros((2, 3, 4), np.uint8)], r"shape \(2, 3, 4\): .*PIL\.Image\.fromarray"),
    ],
)
def test_non_images_are_refused(images: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        list(one_by_one(images))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_an_array_has_the_pixels_of_its_png(width: int, height: int, seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    views = ("middle", "whole-mirrored")
    seen, expected = (decode(data, 16, views=views) for data in (to_file(array), file.getvalue()))
    assert (seen.width, seen.height) == (width, height)
    np.testing.assert_array_equal(seen.pixels, expected.pixels)
    np.testing.assert_array_equal(
        decode(to_file(array[:, ::-1]), 16, views=("middle",)).pixels,
        decode(to_file(array[:, ::-1].copy()), 16, views=("middle",)).pixels,
    )


def picture(mode: str) -> Image.Image:
    """A gradient with some colour, and with transparency where the mode has it."""
    grey = np.add.outer(np.arange(30), np.arange(40)).astype(np.uint8) * 3
    image = Image.fromarray(np.stack([grey, grey[::-1], grey[:, ::-1], grey], axis=-1))
    if mode == "P":
        palette = image.convert("RGB").quantize(8)
        palette.info["transparency"] = 0
        return palette
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 256)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32))
    return image.convert("RGB").convert(mode) if mode != "RGBA" else image


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"),
        ("CMYK", "TIFF"), ("F", "TIFF"),
    ],
)  # fmt: skip
def test_modes_are_seen_as_in_a_file(mode: str, form: str) -> None:
    image, file = picture(mode), io.BytesIO()
    image.save(file, form)
    np.testing.assert_array_equal(
        decode(to_file(image), 16).pixels, decode(file.getvalue(), 16).pixels
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_counts_as_in_a_file(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.DateTimeOriginal: "2026:03:04 05:06:07",
        ExifTags.Base.OffsetTimeOriginal: "+02:00",
    }
    file = io.BytesIO()
    picture("RGB").save(file, "PNG", exif=exif)
    with Image.open(file) as image:
        seen, expected = decode(to_file(image), 16), decode(file.getvalue(), 16)
    assert seen.captured_at == expected.captured_at == "2026-03-04T05:06:07+02:00"
    assert (seen.width, seen.height) == (expected.width, expected.height)
    assert np.abs(seen.pixels.astype(int) - expected.pixels).max() <= 1


def test_kinds_of_broken_images() -> None:
    file = io.BytesIO()
    picture("RGB").save(file, "JPEG")
    broken: list[tuple[Any, str]] = [
        (np.zeros((0, 3, 3), np.uint8), "empty"),
        (Image.new("RGB", (0, 3)), "empty"),
        (Image.open(io.BytesIO(file.getvalue()[:-40])), "unreadable"),
    ]
    for image, kind in broken:
        with pytest.raises(DecodeError) as caught:
            to_file(image)
        assert (caught.value.kind, bool(caught.value.reason)) == (kind, True)
