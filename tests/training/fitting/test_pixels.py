"""Augmentation: seeded, and a picture of the same animal all the same; the steps of an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.images.decode import decode
from monkeyray.storage.store import Storage
from monkeyray.training.fitting.pixels import PixelSource, augment

KEYS = st.tuples(*[st.integers(0, 2**63 - 1)] * 3)


@settings(max_examples=30, deadline=None)
@given(KEYS, st.sampled_from([32, 75]))
def test_shape_and_range_stay_and_the_key_decides(key: tuple[int, ...], size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    before = pixels.copy()
    one = augment(pixels, key)
    assert one.shape == pixels.shape
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, augment(pixels, key))
    np.testing.assert_array_equal(pixels, before)
    assert not np.array_equal(one, augment(pixels, (*key, 1)))


@settings(max_examples=30, deadline=None)
@given(KEYS)
def test_nothing_from_outside_comes_in(key: tuple[int, ...]) -> None:
    # A plain picture stays plain: no black corners from the turn.
    result = augment(np.full((64, 64, 3), 120, np.uint8), key)
    assert result.max() == result.min()
    assert 80 <= result.max() <= 160


def test_what_is_drawn(photos: Path) -> None:
    path = sorted((photos / "n0").iterdir())[0]
    pixels = decode(path.read_bytes(), 64, views=("middle",)).pixels[0]
    results = [augment(pixels, (7, 0, image)) for image in range(200)]
    grey = [bool((np.ptp(result, axis=2) == 0).all()) for result in results]
    assert 10 <= sum(grey) <= 60

    # Half of them resemble the mirror image more than the picture.
    def apart(result: np.ndarray, other: np.ndarray) -> float:
        return float(np.corrcoef(result.mean(axis=2).ravel(), other.mean(axis=2).ravel())[0, 1])

    mirrored = [apart(r, pixels[:, ::-1]) > apart(r, pixels) for r in results]
    assert 60 <= sum(mirrored) <= 140
    light = [float(result.mean()) / float(pixels.mean()) for result in results]
    assert min(light) < 0.9 < 1.1 < max(light)


def test_steps_come_in_their_order_without_a_cluster(photos: Path) -> None:
    uris = np.array([str(path) for path in sorted((photos / "n0").iterdir())[:6]], dtype=object)
    versions = np.array([None] * 6, dtype=object)
    source = PixelSource(uris, versions, 32, ("middle",), Storage(), augment_seed=5)
    index = np.array([[3, 0], [5, 5], [1, 2], [4, 4], [0, 1]])
    plain, augmented = (list(source(index, epoch)) for epoch in (None, 2))
    for step, pixels, changed in zip(index, plain, augmented, strict=True):
        np.testing.assert_array_equal(pixels, source.reader(step)())
        assert changed.shape == pixels.shape == (2, 1, 32, 32, 3)
        expected = [augment(pixels[i, 0], (5, 2, image)) for i, image in enumerate(step)]
        np.testing.assert_array_equal(changed[:, 0], expected)
    assert list(source(index[:0], None)) == []
