"""Image fingerprints: small greyscale thumbnails of the whole frame.

Hashes of a thumbnail and of crops of it select candidate pairs; aligning the two thumbnails
decides.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from PIL import Image

from monkeyray.arrays import Array, Bytes, Flags, Floats, Hashes

#: Bump when the output of `grey_thumbnail` changes, since caches keep it.
THUMBNAIL_VERSION = 1

#: Pixels on each side of a thumbnail, and its size in bytes.
SIDE = 32
THUMBNAIL_BYTES = SIDE * SIDE

#: The least correlation of aligned thumbnails of one picture. Copies cropped by up to 5 % a side
#: exceed it in 99 of 100 cases; different photographs have not reached it in 300 million pairs.
SAME = 0.92


#: Images processed at a time.
_SOME = 2048


def grey_thumbnail(image: Image.Image) -> bytes:
    """The fingerprint of an image in mode RGB or L: SIDE x SIDE grey levels, row by row.

    The image must be the whole frame, upright. It may be squeezed, or decoded at a reduced scale of
    at least SIDE.
    """
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    return small.convert("L").tobytes()


def grey_thumbnails(column: pa.ChunkedArray) -> Bytes:
    """A column of fingerprints (fixed-size binary) as uint8 (n, SIDE, SIDE); black for null."""
    array = column.combine_chunks()
    filled = array.fill_null(bytes(THUMBNAIL_BYTES))
    start = filled.offset * THUMBNAIL_BYTES
    flat = np.frombuffer(filled.buffers()[1], np.uint8)[start:]
    return flat[: len(filled) * THUMBNAIL_BYTES].reshape(-1, SIDE, SIDE)


# -- Hashes --------------------------------------------------------------------------------------

#: Cropped from a side for the hashes of crops, as shares of the frame.
_CUTS = (0.0, 0.03)


def _dct_matrix(rows: int, n: int) -> Array:
    k, i = np.mgrid[0:rows, 0:n]
    return np.asarray(np.cos(np.pi * k * (2 * i + 1) / (2 * n)), dtype=np.float64)


def _window_matrix(start: float, end: float) -> Array:
    """Box filter (SIDE, SIDE) that resamples the pixels between two shares of the frame."""
    edges = np.linspace(start, end, SIDE + 1)[:, None] * SIDE
    pixels = np.arange(SIDE)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return np.asarray(np.maximum(covered, 0) / np.diff(edges, axis=0), dtype=np.float64)


#: The low frequencies of each window along one axis, stacked; the whole frame comes first.
_LOW = np.concatenate(
    [_dct_matrix(8, SIDE) @ _window_matrix(a, 1 - b) for a in _CUTS for b in _CUTS]
).astype(np.float32)


def window_hashes(pictures: Bytes) -> Hashes:
    """Hashes of thumbnails, uint8 (n, SIDE, SIDE), and of 15 crops of each: uint64 (n, 16).

    The first is of the whole; the others are cropped by 3 % at some of the sides, so that one of
    them is near a file cropped by a few per cent. A bit is the sign of one of the 63 lowest
    frequencies of the cosine transform (pHash, Zauner 2010, with zero in place of the median, which
    makes it independent of contrast).
    """
    hashes = np.empty((len(pictures), len(_CUTS) ** 4), np.uint64)
    for start in range(0, len(pictures), _SOME):
        low = _LOW @ pictures[start : start + _SOME].astype(np.float32) @ _LOW.T
        windows = low.reshape(-1, len(_LOW) // 8, 8, len(_LOW) // 8, 8).transpose(0, 1, 3, 2, 4)
        bits = windows.reshape(len(low), -1, 64) > 0
        bits[:, :, 0] = False  # the mean
        hashes[start : start + _SOME] = np.packbits(bits, axis=2).view(np.uint64)[:, :, 0]
    return hashes


# -- Alignment -----------------------------------------------------------------------------------

_STEPS = 7
#: Largest shift of an edge between two frames, as a share of the frame.
_REACH = 0.12
#: Standard deviation in grey levels below which a frame is blank.
_FLAT = 1.0

_CENTRES = ((np.arange(SIDE) + 0.5) / SIDE).astype(np.float32)


def same_picture(ones: Bytes, others: Bytes) -> Flags:
    """Whether each of `others` shows the picture of its one in `ones`, or most of it: bool (n,).

    Both are thumbnails, uint8 (n, SIDE, SIDE). Brightness and contrast do not matter. Blank images,
    such as black frames, are never the same.
    """
    same = np.zeros(len(ones), bool)
    for start in range(0, len(ones), _SOME):
        one, other = ones[start : start + _SOME], others[start : start + _SOME]
        score = correlation(one, other)
        unlike = np.flatnonzero(score < SAME)
        score[unlike] = _aligned_correlation(one[unlike], other[unlike])
        same[start : start + _SOME] = score >= SAME
    return same


def correlation(ones: Bytes, others: Bytes) -> Floats:
    """The correlation of pairs of thumbnails without alignment, float32 (n,)."""
    products = _normed(ones.astype(np.float32)) * _normed(others.astype(np.float32))
    return np.asarray(np.sum(products, axis=(1, 2)), dtype=np.float32)


def _aligned_correlation(ones: Bytes, others: Bytes) -> Floats:
    """The correlation of `others` with their best windows in `ones`, float32 (n,).

    Gauss-Newton steps (Lucas and Kanade 1981) fit the window's four edges, contrast and brightness
    together, as long as the correlation rises.
    """
    best = np.full(len(ones), -1, np.float32)
    edges = np.tile(np.array([0.015, 0.985] * 2, np.float32), (len(ones), 1))
    lowest = np.array([-_REACH, 1 - _REACH] * 2, np.float32)
    rows = np.arange(len(ones))
    for step in range(_STEPS):
        frame, wanted = ones[rows].astype(np.float32), others[rows].astype(np.float32)
        top, bottom, left, right = edges[rows].T
        seen = _sampler(top, bottom) @ frame @ _sampler(left, right).transpose(0, 2, 1)
        found = np.sum(_normed(seen) * _normed(wanted), axis=(1, 2))
        going = found < SAME
        if step:
            going &= found > best[rows] + 0.002
        best[rows] = np.maximum(best[rows], found)
        rows, seen, wanted = rows[going], seen[going], wanted[going]
        edges[rows] += np.clip(_step(seen, wanted), -0.03, 0.03)
        edges[rows] = np.clip(edges[rows], lowest, lowest + 2 * _REACH)
    return best


def _step(seen: Array, wanted: Floats) -> Floats:
    """How far the edges of the windows `seen` are from `wanted`: float32 (n, 4)."""
    down, along = np.gradient(seen * SIDE, axis=(1, 2))
    low, high = 1 - _CENTRES, _CENTRES
    by_edge = [down * low[:, None], down * high[:, None], along * low, along * high]
    slopes = np.stack([*by_edge, seen, np.ones_like(seen)], axis=1).reshape(-1, 6, SIDE * SIDE)
    square = slopes @ slopes.transpose(0, 2, 1)
    # Damping keeps edges in place that the image does not determine.
    size = np.trace(square, axis1=1, axis2=2)[:, None, None]
    square += np.eye(6, dtype=np.float32) * (1e-3 / 6 * size + 1e-3)
    solved = np.linalg.solve(square, slopes @ wanted.reshape(-1, SIDE * SIDE, 1))[:, :, 0]
    gain = np.maximum(solved[:, 4:5], 0.05)
    return np.asarray(solved[:, :4] / gain, dtype=np.float32)


def _sampler(start: Floats, end: Floats) -> Floats:
    """Matrices (n, SIDE, SIDE) that interpolate SIDE points between two shares of the frame."""
    at = (start[:, None] + (end - start)[:, None] * _CENTRES) * SIDE - 0.5
    distance = np.abs(np.clip(at, 0, SIDE - 1)[:, :, None] - np.arange(SIDE, dtype=np.float32))
    return np.asarray(np.maximum(1 - distance, 0), dtype=np.float32)


def _normed(images: Array) -> Floats:
    """Normalised to mean 0 and length 1; all 0 for blank images."""
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.sum(centred**2, axis=(1, 2), keepdims=True))
    normed = np.where(length < _FLAT * SIDE, 0, centred / np.maximum(length, 1))
    return np.asarray(normed, dtype=np.float32)
