"""Diverse images to label next: each the farthest from all that were chosen before.

This is k-center greedy (Gonzalez 1985; for active learning Sener and Savarese 2018).
"""

from __future__ import annotations

import numpy as np

from monkeyray.arrays import Array

#: Centres that candidates are compared with at a time.
_LOT = 256


def unit(vectors: Array) -> Array:
    """L2-normalised vectors (n, d), float32: a feature's length tells contrast, not content."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def squared_distances(candidates: Array, centres: Array) -> Array:
    """Squared Euclidean distances of candidates (n, d) to their nearest centre (m, d): float32
    (n,), infinite without centres."""
    nearest = np.full(len(candidates), np.inf, np.float32)
    lengths = np.einsum("ij,ij->i", candidates, candidates)
    for start in range(0, len(centres), _LOT):
        some = centres[start : start + _LOT]
        each = np.einsum("ij,ij->i", some, some) - 2 * (candidates @ some.T)
        nearest = np.minimum(nearest, lengths + each.min(axis=1))
    # Rounding may give a candidate that is a centre a distance slightly below 0.
    return np.maximum(nearest, 0)


def k_center(candidates: Array, count: int, nearest: Array | None = None) -> Array:
    """Indices, int64, of up to `count` candidates, each the farthest from all centres before it.

    `candidates`: float32 (n, d). `nearest`: squared distances to the nearest given centre (n,);
    without centres, the first choice is the candidate nearest to the mean. Ties go to the first.
    The largest distance that remains is at most twice that of the best possible choice.
    """
    count = min(count, len(candidates))
    chosen = np.empty(count, np.int64)
    if not count:
        return chosen
    if nearest is None or not np.isfinite(nearest).all():
        nearest = np.full(len(candidates), np.inf, np.float32)
        middle = candidates.mean(axis=0, keepdims=True)
        following = int(np.argmin(squared_distances(candidates, middle)))
    else:
        following = int(np.argmax(nearest))
    for i in range(count):
        chosen[i] = following
        away = squared_distances(candidates, candidates[following : following + 1])
        nearest = np.minimum(nearest, away)
        # A copy of a chosen candidate has distance 0, so the chosen themselves need less.
        nearest[chosen[: i + 1]] = -1
        following = int(np.argmax(nearest))
    return chosen
