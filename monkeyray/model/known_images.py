"""What a model keeps of the images that it was made with, to know them again: an evaluation on them
would flatter it.

The same bytes are known by the start of their SHA-256, for every image; the same picture in another
file by the thumbnail, which a bundle has room for of some images only.
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

#: Bytes of a hash that are kept. That two images out of 10^12 have them in common has a chance
#: below 10^-14.
HASH_BYTES = 16

#: Thumbnails that are kept, 20 MB of them.
MOST_THUMBNAILS = 20_000

#: Pictures, kept ones included, that are compared; as many take some seconds.
MOST_COMPARED = 200_000

#: What `KnownImages.find` says of an image.
NEW, IDENTICAL, NEAR = "", "identical", "near"


@dataclass(frozen=True)
class KnownImages:
    """`hashes`: uint8 (n, 16), of all images without repeats; `thumbnails`: uint8 (m, 32, 32), of
    at most 20,000 of them."""

    hashes: Array
    thumbnails: Array

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, for a safetensors file."""
        return {"sha256": self.hashes, "thumbnails": self.thumbnails}

    @classmethod
    def from_arrays(cls, arrays: Weights) -> KnownImages:
        """What `to_arrays` gave. Raises BundleError where the arrays cannot be that."""
        found = {name: (array.dtype.name, array.shape[1:]) for name, array in arrays.items()}
        wanted = {"sha256": ("uint8", (HASH_BYTES,)), "thumbnails": ("uint8", (SIDE, SIDE))}
        if found != wanted:
            raise BundleError(f"the list of images seen is damaged: it has {found}")
        return cls(arrays["sha256"], arrays["thumbnails"])

    def find(self, contents: Sequence[str], pictures: Array | None) -> Array:
        """Which images are among those seen, str (n,): NEW, IDENTICAL (the same bytes) or NEAR (the
        same picture, or one that cannot be told from it).

        `contents`: SHA-256 as hexadecimal digits; `pictures`: thumbnails, uint8 (n, 32, 32), or
        None to look for the same bytes alone. Images that are near to each other are near as one.
        """
        known = {row.tobytes() for row in self.hashes}
        identical = np.array([_start(each) in known for each in contents], bool)
        found = np.where(identical, IDENTICAL, NEW).astype(object)
        if pictures is not None and len(self.thumbnails) and not identical.all():
            kept = len(self.thumbnails)
            groups = group_images(
                # No hash belongs to a thumbnail: each stands for itself.
                [*(f"seen {number}" for number in range(kept)), *contents],
                np.concatenate([self.thumbnails, pictures]),
            )
            near = np.isin(groups[kept:], groups[:kept])
            found[near & ~identical] = NEAR
        return found

    @property
    def share(self) -> float:
        """The share of the images whose thumbnails are there."""
        return len(self.thumbnails) / len(self.hashes) if len(self.hashes) else 0.0

    def is_affordable(self, images: int) -> bool:
        """Whether the pictures of so many images may be compared."""
        return images + len(self.thumbnails) <= MOST_COMPARED


def remember(contents: Sequence[str], pictures: Array) -> KnownImages:
    """What is kept of the images that a model is made with, from their SHA-256 and thumbnails.

    Where there are too many, the thumbnails are those of every so many-th image.
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
    """What is said of images that a model was made with, in JSON's types.

    `found`: what KnownImages.find returned, None without the model; `compared`: with what
    share of its pictures theirs were compared. `images`: how many of them there are, None where
    that is not known; `identical` and `near`: of which kind, the latter None where no pictures were
    compared; `uris`: each.
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
