"""Which files show the same picture: byte for byte, or encoded, scaled or cropped anew.

Another moment of the same scene is another picture where the animal covers enough of it. Where it
does not, as with a small animal before a camera that does not move, the two can not be told apart,
and count as one picture: a model that has seen the one has all but seen the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from monkeyray.arrays import Bytes, Hashes, Ints
from monkeyray.statistics.fingerprints import agreement, same_picture, window_hashes

#: Bits in which the hashes of two files of one picture may differ.
NEAR_BITS = 7

#: The correlation above which two thumbnails are so equal that the search needs only one of them.
_ALL_BUT_EQUAL = 0.98

#: An image is compared until it was unlike so many others. Among photographs it is hardly ever
#: unlike one that its hash is near; before a still camera it may be unlike thousands.
_PATIENCE = 32

#: Comparisons, pairs of hashes and pairs that were found, that are worked on at a time.
_SOME = 2048
_MANY = 2**20
_LOT = 2**22


def group_images(
    contents: Sequence[str],
    pictures: Bytes | None,
    groups: Sequence[str | None] | None = None,
) -> Ints:
    """A group number per image: same content hash, same picture, or same given group.

    `pictures`: the thumbnails, uint8 (n, 32, 32), or None to compare no pictures. Groups are
    joined transitively and numbered by their first image.
    """
    forest = _Forest(len(contents))
    for keys in (contents, groups or ()):
        first: dict[str, int] = {}
        for i, key in enumerate(keys):
            if key is not None:
                forest.join(first.setdefault(key, i), i)
    if pictures is not None:
        distinct = np.unique(np.asarray(contents, dtype=object), return_index=True)[1]
        _join_pictures(forest, np.sort(distinct), pictures)
    return forest.roots()


def leaks(
    uris: Sequence[str],
    splits: Sequence[str],
    contents: Sequence[str],
    pictures: Ints,
    groups: Ints,
    most: int = 5,
) -> list[dict[str, Any]]:
    """Each test image that shares a group with an image of another split, then each validation
    image that shares one with a training image, ready for JSON.

    `pictures`: group numbers by picture alone; `groups`: with given groups too. A row has the
    image's `uri` and `split`; `how` it is repeated, at its worst: "identical" (the same bytes),
    "near" (the same picture) or "group" (only the given group); how many `images` of other splits
    (of train, for a validation image) it repeats; and of these the `most` worst as `repeats`, each
    with `uri`, `split` and `how`.
    """
    its_groups = groups.tolist()
    # From near to far; what is the same in one is the same in the next.
    keys = [
        list(zip(its_groups, contents, strict=True)),
        list(zip(its_groups, pictures.tolist(), strict=True)),
        its_groups,
    ]
    rows = []
    for split, others in (("test", ("train", "validation")), ("validation", ("train",))):
        elsewhere = _elsewhere(uris, splits, others, keys)
        for i in range(len(uris)):
            if splits[i] != split or its_groups[i] not in elsewhere[-1]:
                continue
            ranks: dict[int, int] = {}
            for rank, (found, key) in enumerate(zip(elsewhere, keys, strict=True)):
                # As many of each are enough, and a group may have thousands.
                for j in found.get(key[i], ())[:most]:
                    ranks.setdefault(j, rank)
            repeats = [
                {"uri": uris[j], "split": splits[j], "how": _HOW[rank]} for j, rank in ranks.items()
            ]
            rows.append(
                {
                    "uri": uris[i],
                    "split": split,
                    "how": repeats[0]["how"],
                    "images": len(elsewhere[-1][its_groups[i]]),
                    "repeats": repeats[:most],
                }
            )
    return rows


def _elsewhere(
    uris: Sequence[str], splits: Sequence[str], others: Sequence[str], keys: list[list[Any]]
) -> list[dict[Any, list[int]]]:
    """For each list of keys the images of other splits by their key, ordered by URI."""
    images = [i for i, split in enumerate(splits) if split in others]
    images.sort(key=lambda i: (uris[i], splits[i]))
    found: list[dict[Any, list[int]]] = [{} for _ in keys]
    for i in images:
        for by_key, key in zip(found, keys, strict=True):
            by_key.setdefault(key[i], []).append(i)
    return found


_HOW = ("identical", "near", "group")


class _Forest:
    """Groups that are joined two at a time; each is known by its smallest member."""

    def __init__(self, size: int) -> None:
        self._parent = np.arange(size)

    def join(self, one: int, other: int) -> None:
        a, b = self._root(one), self._root(other)
        self._parent[max(a, b)] = min(a, b)

    def roots(self) -> Ints:
        """The group of each, all at once."""
        while not np.array_equal(above := self._parent[self._parent], self._parent):
            self._parent = above
        return self._parent.copy()

    def _root(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i


def _join_pictures(forest: _Forest, images: Ints, pictures: Bytes) -> None:
    """Join the images, of which no two have the same bytes, that show the same picture."""
    images, hashes = _thin_out(forest, images, window_hashes(pictures[images]), pictures)
    rng = np.random.default_rng(0)
    compared = np.empty(0, np.int64)
    unlike = np.zeros(len(images), np.int64)
    for lot in _in_lots(close_hashes(hashes)):
        roots = forest.roots()[images]
        lot = lot[roots[lot[:, 0]] != roots[lot[:, 1]]]
        keys = _without_repeats(lot[:, 0] * len(images) + lot[:, 1])
        keys = keys[~np.isin(keys, compared, assume_unique=True)]
        compared = np.concatenate([compared, keys])
        rng.shuffle(keys)
        for start in range(0, len(keys), _SOME):
            one, other = np.divmod(keys[start : start + _SOME], len(images))
            roots = forest.roots()[images]
            open_ = roots[one] != roots[other]
            open_ &= (unlike[one] < _PATIENCE) | (unlike[other] < _PATIENCE)
            one, other = one[open_], other[open_]
            same = same_picture(pictures[images[one]], pictures[images[other]])
            for i, j in zip(images[one[same]].tolist(), images[other[same]].tolist(), strict=True):
                forest.join(i, j)
            np.add.at(unlike, one[~same], 1)
            np.add.at(unlike, other[~same], 1)


def _thin_out(
    forest: _Forest, images: Ints, hashes: Hashes, pictures: Bytes
) -> tuple[Ints, Hashes]:
    """Join what is all but equal, and keep one of each for the search.

    Before a camera that does not move thousands of images are near each other, which would be
    millions of pairs. So each is first compared with one that has a quarter of its hash.
    """
    for quarter in range(4):
        keys = _quarter(hashes[:, 0], quarter)
        index, inverse = np.unique(keys, return_index=True, return_inverse=True)[1:]
        first = index[inverse]
        near = np.bitwise_count(hashes[first, 0] ^ hashes[:, 0]) <= NEAR_BITS
        rows = np.flatnonzero(near & (first != np.arange(len(images))))
        equal = np.zeros(len(images), bool)
        for start in range(0, len(rows), _SOME):
            some = rows[start : start + _SOME]
            score = agreement(pictures[images[first[some]]], pictures[images[some]])
            equal[some] = score >= _ALL_BUT_EQUAL
        for i in np.flatnonzero(equal):
            forest.join(int(images[first[i]]), int(images[i]))
        images, hashes = images[~equal], hashes[~equal]
    return images, hashes


def _in_lots(found: Iterator[Ints]) -> Iterator[Ints]:
    """The same pairs, but not a few at a time."""
    lot: list[Ints] = []
    size = 0
    for pairs in found:
        lot.append(pairs)
        size += len(pairs)
        if size > _LOT:
            yield np.concatenate(lot)
            lot, size = [], 0
    if lot:
        yield np.concatenate(lot)


def _without_repeats(keys: Ints) -> Ints:
    # Not with np.unique, whose hash table takes seconds for a million keys such as these.
    ordered = np.sort(keys)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def close_hashes(hashes: Hashes, bits: int = NEAR_BITS) -> Iterator[Ints]:
    """Pairs (i, j), i != j, where any hash of i is at most `bits` from the first one of j.

    `hashes`: uint64 (n, k). All such pairs come, as int64 (m, 2) a time, some of them repeatedly.
    Two hashes that near have a quarter in which they differ by a quarter of the bits at most, so
    only what is in such a bucket is compared (multi-index hashing, Norouzi et al. 2012): some
    seconds for 200,000 images, where all pairs would be 20 billion.
    """
    flips = [
        sum(1 << bit for bit in flipped)
        for number in range(bits // 4 + 1)
        for flipped in itertools.combinations(range(16), number)
    ]
    whole = np.ascontiguousarray(hashes[:, 0])
    for quarter in range(4):
        keys = _quarter(whole, quarter)
        order = np.argsort(keys, kind="stable")
        ordered = whole[order]
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=2**16))])
        for window in hashes.T:
            wanted = _quarter(window, quarter)
            for flip in flips:
                first = starts[wanted ^ flip]
                counts = starts[(wanted ^ flip) + 1] - first
                for rows in _blocks(counts):
                    count = counts[rows]
                    ends = np.cumsum(count)
                    at = np.arange(ends[-1]) + np.repeat(first[rows] - ends + count, count)
                    near = np.repeat(window[rows], count) ^ ordered[at]
                    hits = np.flatnonzero(np.bitwise_count(near) <= bits)
                    i = rows.start + np.searchsorted(ends, hits, side="right")
                    pairs = np.stack([i, order[at[hits]]], axis=1)
                    yield pairs[pairs[:, 0] != pairs[:, 1]]


def _quarter(hashes: Hashes, quarter: int) -> Ints:
    return ((hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)).astype(np.int64)


def _blocks(counts: Ints) -> Iterator[slice]:
    """Slices of rows with together some _MANY, or one row that alone has more."""
    totals = np.cumsum(counts)
    start = 0
    while start < len(counts) and totals[-1]:
        before = totals[start - 1] if start else 0
        end = max(int(np.searchsorted(totals, before + _MANY, side="right")), start + 1)
        if totals[end - 1] > before:
            yield slice(start, end)
        start = end
