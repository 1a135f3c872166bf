"""What a person should label next: pure choices over arrays, and over streams of them.

Two rules. *Uncertain*: the images whose two likeliest labels are closest (margin sampling, Scheffer
et al. 2001). *Diverse*: the images that the others are near to, each chosen as the farthest from
all before (k-center greedy, Gonzalez 1985; for labelling Sener and Savarese 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

Array = np.ndarray[Any, Any]
T = TypeVar("T")

#: Centres that candidates are compared with at a time.
_LOT = 256


class Least(Generic[T]):
    """The `limit` things with the least keys of a stream, the least first, of equal ones the
    earlier. No two have the same name, and memory holds no more than these."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[tuple[float, int, str, T]] = []
        self._seen = 0

    def add(self, keys: Array, names: Sequence[str], make: Callable[[int], T]) -> None:
        """Look at some more: float keys (n,), NaN for what is not meant, and as many names.
        `make` gives the thing at a position, and is called for those that are kept."""
        meant = ~np.isnan(keys)
        if len(self._kept) == self._limit:
            meant &= keys < (self._kept[-1][0] if self._kept else -np.inf)
        where = np.flatnonzero(meant)
        held = {name: key for key, _, name, _ in self._kept}
        new: dict[str, tuple[float, int, str, T]] = {}
        for i in where[np.argsort(keys[where], kind="stable")].tolist():
            if len(new) == self._limit:
                break
            name, key = names[i], float(keys[i])
            if name not in new and key < held.get(name, np.inf):
                new[name] = (key, self._seen + i, name, make(i))
        old = [entry for entry in self._kept if entry[2] not in new]
        self._kept = sorted([*old, *new.values()], key=lambda entry: entry[:2])[: self._limit]
        self._seen += len(keys)

    def __iter__(self) -> Iterator[T]:
        return (entry[3] for entry in self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def margins(scores: Array) -> Array:
    """How far the likeliest label is ahead, float64 (n,), from listed scores (n, labels), where 0
    stands for a label that is not listed.

    What is not listed has no more than the rest: where a single label is, the margin is the
    smallest that there can be, below 0 too, so that the order is that of the scores.

    >>> margins(np.array([[0.5, 0.25, 0.0], [0.75, 0.0, 0.0]])).tolist()
    [0.25, 0.5]
    """
    best = np.sort(np.asarray(scores, np.float64), axis=1)[:, ::-1]
    first = best[:, 0]
    second = best[:, 1] if best.shape[1] > 1 else np.zeros_like(first)
    return np.asarray(first - np.where(second > 0, second, 1 - first))


def unit(vectors: Array) -> Array:
    """Vectors (n, d) with the length 1, so that distances are those of their directions.

    Features of one scene are long or short by its contrast. On the 10 Monkey Species k-center on
    their directions chose better than on themselves: after a round of 100 images 0.980 of the test
    images are right instead of 0.975 (random choice: 0.974).
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def squared_distances(candidates: Array, centres: Array) -> Array:
    """The squared Euclidean distance of each candidate (n, d) to the nearest centre (m, d), float32
    (n,); infinite where there is no centre."""
    nearest = np.full(len(candidates), np.inf, np.float32)
    lengths = np.einsum("ij,ij->i", candidates, candidates)
    for start in range(0, len(centres), _LOT):
        some = centres[start : start + _LOT]
        each = np.einsum("ij,ij->i", some, some) - 2 * (candidates @ some.T)
        nearest = np.minimum(nearest, lengths + each.min(axis=1))
    # Rounding makes a candidate that is a centre a little more or less than 0 from it.
    return np.maximum(nearest, 0)


def k_center(candidates: Array, count: int, nearest: Array | None = None) -> Array:
    """`count` candidates, or all where they are fewer, as indices int64: each the farthest from the
    centres and those before, of equal ones the first.

    `candidates`: float32 (n, d). `nearest`: squared distances to the nearest centre (n,); where
    there is none, the first choice is the candidate nearest to the mean. With the same centres, no
    choice of as many leaves a candidate less than half as far from the nearest.
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
        # A copy of what is chosen has the distance 0: what is chosen itself is never again.
        nearest[chosen[: i + 1]] = -1
        following = int(np.argmax(nearest))
    return chosen
