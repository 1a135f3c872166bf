"""Leaks: test images that also appear among the training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monkeyray.arrays import Flags, Ints

#: How an image is repeated, worst first: the same bytes, the same picture, or only the given group.
_HOW = ("identical", "near", "group")


def leaks(
    uris: Sequence[str],
    test: Flags,
    contents: Sequence[str],
    pictures: Ints,
    groups: Ints,
    most: int = 5,
) -> list[dict[str, Any]]:
    """The test images that share a group with training images, in JSON types.

    `pictures`: group numbers by picture alone; `groups`: with given groups too. A row has the
    image's `uri`; `how` it is repeated at worst: "identical" (the same bytes), "near" (the same
    picture) or "group" (only the given group); the number of `images` it repeats; and at `most`
    that many of the worst as `repeats`, each with `uri` and `how`.
    """
    its_groups = groups.tolist()
    # From worst to least; images that share one key share the next.
    keys: list[Sequence[Any]] = [
        list(zip(its_groups, contents, strict=True)),
        list(zip(its_groups, pictures.tolist(), strict=True)),
        its_groups,
    ]
    others = sorted(np.flatnonzero(~test).tolist(), key=lambda i: uris[i])
    elsewhere = [_by_key(key, others) for key in keys]
    rows = []
    for i in np.flatnonzero(test).tolist():
        if its_groups[i] not in elsewhere[-1]:
            continue
        ranks: dict[int, int] = {}
        for rank, (found, key) in enumerate(zip(elsewhere, keys, strict=True)):
            # A group may have thousands of images; name only a few.
            for j in found.get(key[i], ())[:most]:
                ranks.setdefault(j, rank)
        repeats = [{"uri": uris[j], "how": _HOW[rank]} for j, rank in ranks.items()]
        rows.append(
            {
                "uri": uris[i],
                "how": repeats[0]["how"],
                "images": len(elsewhere[-1][its_groups[i]]),
                "repeats": repeats[:most],
            }
        )
    return rows


def _by_key(keys: Sequence[Any], images: Sequence[int]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for i in images:
        found.setdefault(keys[i], []).append(i)
    return found
