"""Recognises images that a model was trained on, since an evaluation on them would be optimistic.

It keeps the start of the SHA-256 of every image, and thumbnails of at most 20,000 of them to
recognise the same picture in another file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.errors import BundleError
from monkeyray.model.backbones import Weights
from monkeyray.statistics.duplicates import group_images
from monkeyray.statistics.fingerprints import SIDE

#: Bytes of each hash to keep: among 10^12 images a collision has a probability below 10^-14.
HASH_BYTES = 16

#: Maximum number of thumbnails, 20 MB.
MOST_THUMBNAILS = 20_000

#: Maximum number of pictures to compare, including the known ones; this takes some seconds.
MOST_COMPARED = 200_000

#: The results of `KnownImages.find`.
NEW, IDENTICAL, NEAR = "", "identical", "near"


@dataclass(frozen=True)
class KnownImages:
    """`hashes`: of all distinct images, uint8 (n, 16); `thumbnails`: of at most 20,000 of them,
    uint8 (m, 32, 32)."""

    hashes: Array
    thumbnails: Array

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, for a safetensors file."""
        return {"sha256": self.hashes, "thumbnails": self.thumbnails}

    @classmethod
    def from_arrays(cls, arrays: Weights) -> KnownImages:
        """The inverse of `to_arrays`. Raises BundleError for other arrays."""
        found = {name: (array.dtype.name, array.shape[1:]) for name, array in arrays.items()}
        wanted = {"sha256": ("uint8", (HASH_BYTES,)), "thumbnails": ("uint8", (SIDE, SIDE))}
        if found != wanted:
            raise BundleError(f"the list of known images is damaged: it has {found}")
        return cls(arrays["sha256"], arrays["thumbnails"])

    def find(self, contents: Sequence[str], pictures: Array | None) -> Array:
        """Which images are known, str (n,): NEW, IDENTICAL (the same bytes) or NEAR (the same
        picture, or an indistinguishable one).

        `contents`: SHA-256 as hexadecimal digits; `pictures`: thumbnails, uint8 (n, 32, 32), or
        None to compare bytes only. Images that are near each other are all near if one is.
        """
        known = {row.tobytes() for row in self.hashes}
        identical = np.array([_start(each) in known for each in contents], bool)
        found = np.where(identical, IDENTICAL, NEW).astype(object)
        if pictures is not None and len(self.thumbnails) and not identical.all():
            kept = len(self.thumbnails)
            groups = group_images(
                # The hashes of the thumbnails are not kept.
                [*(f"seen {number}" for number in range(kept)), *contents],
                np.concatenate([self.thumbnails, pictures]),
            )
            near = np.isin(groups[kept:], groups[:kept])
            found[near & ~identical] = NEAR
        return found

    @property
    def share(self) -> float:
        """The share of the images with a thumbnail."""
        return len(self.thumbnails) / len(self.hashes) if len(self.hashes) else 0.0

    def is_affordable(self, images: int) -> bool:
        """Whether the pictures of this many images can be compared in reasonable time."""
        return images + len(self.thumbnails) <= MOST_COMPARED


def remember(contents: Sequence[str], pictures: Array) -> KnownImages:
    """The known images, from their SHA-256 and thumbnails, uint8 (n, 32, 32): an even selection if
    there are too many.
    """
    distinct = {content: row for row, content in reversed([*enumerate(contents)])}
    hashes = np.frombuffer(b"".join(map(_start, sorted(distinct))), np.uint8)
    first = np.array(sorted(distinct.values()), np.int64)
    count = min(len(first), MOST_THUMBNAILS)
    drawn = first[np.linspace(0, len(first) - 1, count).round().astype(np.int64)]
    return KnownImages(hashes.reshape(-1, HASH_BYTES), np.ascontiguousarray(pictures[drawn]))


def describe_known_images(
    found: Array | None, uris: Sequence[str], compared: float
) -> dict[str, Any]:
    """The known images of an evaluation, in JSON's types.

    `found`: the result of KnownImages.find, None without the model; `compared`: the share of the
    model's pictures that were compared. Returns the number of `images` (None if unknown), how many
    are `identical` and `near` (None if no pictures were compared), and their `uris`.
    """
    if found is None:
        return {"images": None, "identical": None, "near": None, "compared": 0.0, "uris": []}
    rows = np.flatnonzero(found != NEW)
    return {
        "images": len(rows),
        "identical": int((found == IDENTICAL).sum()),
        "near": int((found == NEAR).sum()) if compared else None,
        "compared": compared,
        "uris": [{"uri": str(uris[i]), "how": str(found[i])} for i in rows.tolist()],
    }


def _start(content: str) -> bytes:
    return bytes.fromhex(content[: 2 * HASH_BYTES])
