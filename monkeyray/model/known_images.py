"""Recognises images that a model was trained on, since an evaluation on them would be optimistic.

It keeps the start of the SHA-256 of every image, and thumbnails of at most 20,000 of them to
recognise the same picture in another file; and hashes of the names of their locations, since an
evaluation at these is optimistic too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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
    uint8 (m, 32, 32); `locations`: of the names of their locations, uint8 (k, 16)."""

    hashes: Array
    thumbnails: Array
    locations: Array = field(default_factory=lambda: np.empty((0, HASH_BYTES), np.uint8))

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, for a safetensors file."""
        some = {"locations": self.locations} if len(self.locations) else {}
        return {"sha256": self.hashes, "thumbnails": self.thumbnails, **some}

    @classmethod
    def from_arrays(cls, arrays: Weights) -> KnownImages:
        """The inverse of `to_arrays`. Raises BundleError for other arrays."""
        found = {name: (array.dtype.name, array.shape[1:]) for name, array in arrays.items()}
        hashes = ("uint8", (HASH_BYTES,))
        wanted = {"sha256": hashes, "thumbnails": ("uint8", (SIDE, SIDE))}
        if found not in (wanted, wanted | {"locations": hashes}):
            raise BundleError(f"the list of known images is damaged: it has {found}")
        some = (arrays["locations"],) if "locations" in arrays else ()
        return cls(arrays["sha256"], arrays["thumbnails"], *some)

    def at(self, locations: Sequence[str | None]) -> Array | None:
        """Whether there are known images of each location, bool (n,); None if no location is
        known."""
        if not len(self.locations):
            return None
        known = {row.tobytes() for row in self.locations}
        return np.array([name is not None and _name(name) in known for name in locations], bool)

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


def remember(
    contents: Sequence[str],
    pictures: Array,
    locations: Iterable[str] = (),
    rows: Array | None = None,
) -> KnownImages:
    """The known images, from their SHA-256 and thumbnails, uint8 (n, 32, 32), an even selection if
    there are too many; and the names of their locations. `rows`: where each image's thumbnail is,
    if `pictures` has others too.
    """
    distinct = {content: row for row, content in reversed([*enumerate(contents)])}
    first = np.array(sorted(distinct.values()), np.int64)
    count = min(len(first), MOST_THUMBNAILS)
    drawn = first[np.linspace(0, len(first) - 1, count).round().astype(np.int64)]
    if rows is not None:
        drawn = rows[drawn]
    return KnownImages(
        _rows(map(_start, sorted(distinct))),
        np.ascontiguousarray(pictures[drawn]),
        _rows(sorted(map(_name, set(locations)))),
    )


def _rows(hashes: Iterable[bytes]) -> Array:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


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


def _name(location: str) -> bytes:
    return hashlib.sha256(location.encode()).digest()[:HASH_BYTES]


def _start(content: str) -> bytes:
    return bytes.fromhex(content[: 2 * HASH_BYTES])
