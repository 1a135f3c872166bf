"""Near-duplicates: files that show the same picture, re-encoded, scaled or slightly cropped.

Two moments of one scene count as one picture unless the animal covers enough of the frame. That is
intended: a model trained on one of them has practically seen the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from monkeyray.arrays import Bytes, Hashes, Ints
from monkeyray.statistics.fingerprints import correlation, same_picture, window_hashes

#: Bits in which the hashes of one picture may differ.
NEAR_BITS = 7

#: Correlation above which only one of two thumbnails takes part in the search.
_ALL_BUT_EQUAL = 0.98

#: An image is no longer compared after so many mismatches: with a fixed camera there may be
#: thousands, otherwise there is hardly ever one.
_PATIENCE = 32

#: Thumbnails compared, hashes compared and pairs found at a time.
_SOME = 2048
_MANY = 2**15
_LOT = 2**22


def group_images(
    contents: Sequence[str],
    pictures: Bytes | None,
    groups: Sequence[str | None] | None = None,
) -> Ints:
    """Group numbers, int64 (n,), of images with the same content hash, picture or given group.

    `pictures`: thumbnails, uint8 (n, 32, 32), or None not to compare pictures. Groups are joined
    transitively and numbered by their first image.
    """
    distinct = joined = np.arange(len(contents))
    for keys in (groups or (), contents):
        first: dict[str, int] = {}
        same = [i if key is None else first.setdefault(key, i) for i, key in enumerate(keys)]
        joined = _join(joined, np.arange(len(same)), np.array(same, np.int64))
        distinct = np.flatnonzero(same == np.arange(len(same)))
    return joined if pictures is None else _join_pictures(joined, distinct, pictures)


def _join(groups: Ints, ones: Ints, others: Ints) -> Ints:
    """Groups after joining each of `ones` with its one in `others`, transitively.

    A group is known by its first member.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(ones):
        return groups
    pairs = (np.ones(len(ones), bool), (groups[ones], groups[others]))
    graph = coo_array(pairs, shape=(len(groups), len(groups)))
    component = connected_components(graph, directed=False)[1]
    first = np.empty(component.max() + 1, np.int64)
    first[component[::-1]] = np.arange(len(groups))[::-1]  # the last one written is the first
    return np.asarray(first[component[groups]], np.int64)


def _join_pictures(groups: Ints, images: Ints, pictures: Bytes) -> Ints:
    """Groups after joining those of `images`, all with different bytes, that show one picture."""
    hashes = np.concatenate(
        [
            np.empty((0, 16), np.uint64),
            *(window_hashes(pictures[some]) for some in _slices(images)),
        ]
    )
    groups, images, hashes = _thin_out(groups, images, hashes, pictures)
    rng = np.random.default_rng(0)
    compared = np.empty(0, np.int64)
    unlike = np.zeros(len(images), np.int64)
    for lot in _in_lots(close_hashes(hashes)):
        its = groups[images]
        lot = lot[its[lot[:, 0]] != its[lot[:, 1]]]
        keys = _without_repeats(lot[:, 0] * len(images) + lot[:, 1])
        keys = keys[~np.isin(keys, compared, assume_unique=True)]
        compared = np.concatenate([compared, keys])
        rng.shuffle(keys)
        for start in range(0, len(keys), _SOME):
            one, other = np.divmod(keys[start : start + _SOME], len(images))
            open_ = groups[images[one]] != groups[images[other]]
            open_ &= (unlike[one] < _PATIENCE) | (unlike[other] < _PATIENCE)
            one, other = one[open_], other[open_]
            same = same_picture(pictures[images[one]], pictures[images[other]])
            groups = _join(groups, images[one[same]], images[other[same]])
            np.add.at(unlike, one[~same], 1)
            np.add.at(unlike, other[~same], 1)
    return groups


def _slices(images: Ints) -> Iterator[Ints]:
    return (images[start : start + _SOME] for start in range(0, len(images), _SOME))


def _thin_out(
    groups: Ints, images: Ints, hashes: Hashes, pictures: Bytes
) -> tuple[Ints, Ints, Hashes]:
    """Join almost equal images, and keep one of each for the search.

    With a fixed camera thousands of images are alike, and their pairs would be millions. So each is
    first compared with a single image that shares a quarter of its hash.
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
            score = correlation(pictures[images[first[some]]], pictures[images[some]])
            equal[some] = score >= _ALL_BUT_EQUAL
        groups = _join(groups, images[first[equal]], images[equal])
        images, hashes = images[~equal], hashes[~equal]
    return groups, images, hashes


def _in_lots(found: Iterator[Ints]) -> Iterator[Ints]:
    """The same pairs in larger arrays."""
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
    # np.unique hashes, which is slow for such keys.
    ordered = np.sort(keys)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def close_hashes(hashes: Hashes, bits: int = NEAR_BITS) -> Iterator[Ints]:
    """All pairs (i, j), i != j, where any hash of i is within `bits` of the first hash of j.

    `hashes`: uint64 (n, k). Yields int64 (m, 2) arrays; pairs may repeat. Multi-index hashing
    (Norouzi et al. 2012): such hashes have a quarter in which they differ by at most a quarter of
    `bits`, so only hashes with similar quarters are compared; with few images, with similar first
    bits of a quarter, so that there are not more quarters than images.
    """
    whole, every = np.ascontiguousarray(hashes[:, 0]), hashes.reshape(-1)
    width = min(16, max(1, len(hashes).bit_length() - 3))
    flips = np.array(
        [
            sum(1 << bit for bit in flipped)
            for number in range(bits // 4 + 1)
            for flipped in itertools.combinations(range(width), number)
        ]
    )
    for quarter in range(4):
        order, starts = _by_key(whole, quarter, width)
        all_order, all_starts = _by_key(every, quarter, width)
        for key in np.flatnonzero(np.diff(all_starts)).tolist():
            near = [order[starts[other] : starts[other + 1]] for other in (key ^ flips).tolist()]
            others = np.concatenate(near)
            if not len(others):
                continue
            values = whole[others]
            step = max(1, _MANY // len(others))
            for start in range(all_starts[key], all_starts[key + 1], step):
                ones = all_order[start : min(start + step, all_starts[key + 1])]
                close = np.bitwise_count(every[ones][:, None] ^ values) <= bits
                one, other = np.nonzero(close)
                pairs = np.stack([ones[one] // hashes.shape[1], others[other]], axis=1)
                yield pairs[pairs[:, 0] != pairs[:, 1]]


def _by_key(hashes: Hashes, quarter: int, width: int) -> tuple[Ints, Ints]:
    """The order of hashes by the first `width` bits of a quarter, and where each value starts."""
    keys = (_quarter(hashes, quarter) >> (16 - width)).astype(np.uint16)
    counts = np.bincount(keys, minlength=2**width)
    return np.argsort(keys, kind="stable"), np.concatenate([[0], np.cumsum(counts)])


def _quarter(hashes: Hashes, quarter: int) -> Ints:
    return ((hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)).astype(np.int64)
