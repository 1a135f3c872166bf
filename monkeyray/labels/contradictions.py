"""Contradictions: files of one picture under several labels, of which at least one is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monkeyray.arrays import Flags, Ints
from monkeyray.console import counted

#: The status of images that --drop-contradictions leaves out.
CONTRADICTORY = "contradictory"

#: Contradictions named in a summary.
_NAMED = 5


@dataclass(frozen=True)
class Contradictions:
    """The contradictions among n images.

    `found`: in JSON types, those of identical files first. Each has `how`, "identical" (files with
    the same bytes have several labels) or "near" (only files of the same picture do), and `images`,
    each with `uri`, `label` and its own `how`, beginning with one of each label. `identical` and
    `all`: which images are contradictory by their bytes, and by bytes or picture, bool (n,).
    """

    found: list[dict[str, Any]]
    identical: Flags
    all: Flags

    def dropped(self, drop: str) -> Flags:
        """Which images --drop-contradictions none, identical or all leaves out, bool (n,)."""
        return {"none": np.zeros_like(self.all), "identical": self.identical, "all": self.all}[drop]


def find_contradictions(
    uris: Sequence[str], labels: Sequence[str], contents: Sequence[str | None], pictures: Ints
) -> Contradictions:
    """The contradictions among readable images.

    `contents`: hashes of files, None if unknown; `pictures`: group numbers, int64 (n,), see
    `group_images`.
    """
    identical, every = _share_key(contents, labels), _share_key(pictures.tolist(), labels)
    by_picture: dict[int, list[int]] = {}
    for i in np.flatnonzero(every).tolist():
        by_picture.setdefault(int(pictures[i]), []).append(i)
    found: list[dict[str, Any]] = []
    for images in by_picture.values():
        # The first label's first image and the next label's have the same bytes if any have.
        images.sort(key=lambda i: (not identical[i], contents[i] or "", uris[i]))
        first = {labels[i]: i for i in reversed(images)}
        images.sort(key=lambda i: first[labels[i]] != i)
        its = [
            {"uri": uris[i], "label": labels[i], "how": "identical" if identical[i] else "near"}
            for i in images
        ]
        found.append({"how": its[0]["how"], "images": its})
    found.sort(key=lambda row: row["how"])
    return Contradictions(found, identical, every)


def describe_contradictions(
    found: Sequence[dict[str, Any]], statuses: Mapping[str, int]
) -> Iterator[str]:
    """Lines for a summary: how many there are, and the first of them with their labels.

    `statuses`: unused images by status.
    """
    if not found:
        return
    same = sum(row["how"] == "identical" for row in found)
    yield (
        f"WARNING: {counted(len(found), 'picture')} with files under several labels (identical "
        f"bytes: {same}, near-duplicates: {len(found) - same}): "
        + (
            f"{counted(statuses[CONTRADICTORY], 'file')} left out"
            if CONTRADICTORY in statuses
            else "correct the labels, or give --drop-contradictions"
        )
    )
    for row in found[:_NAMED]:
        first: dict[str, str] = {}
        for image in row["images"]:
            if image["how"] == row["how"]:
                first.setdefault(image["label"], image["uri"])
        how = "the same bytes" if row["how"] == "identical" else "near-duplicates"
        yield f"  {how}: " + ", ".join(f"{uri} ({label})" for label, uri in first.items())
    if len(found) > _NAMED:
        yield f"  and {len(found) - _NAMED} more, in metrics.json"


def _share_key(keys: Sequence[Any], labels: Sequence[str]) -> Flags:
    """Which images share a key other than None with an image of another label, bool (n,)."""
    first: dict[Any, str] = {}
    pairs = list(zip(keys, labels, strict=True))
    clashes = {key for key, label in pairs if first.setdefault(key, label) != label} - {None}
    return np.array([key in clashes for key in keys], bool)
