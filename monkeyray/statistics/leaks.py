"""Leaks between the splits of the data: images of one that are repeated in another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monkeyray.arrays import Ints

#: How an image is repeated, worst first: the same bytes, the same picture, or only the given group.
_HOW = ("identical", "near", "group")


def leaks(
    uris: Sequence[str],
    splits: Sequence[str],
    contents: Sequence[str],
    pictures: Ints,
    groups: Ints,
    most: int = 5,
) -> list[dict[str, Any]]:
    """Each test image that shares a group with training or validation images, then each validation
    image that shares one with training images, in JSON types.

    `pictures`: group numbers by picture alone; `groups`: with given groups too. A row has the
    image's `uri` and `split`; `how` it is repeated at worst: "identical" (the same bytes), "near"
    (the same picture) or "group" (only the given group); the number of `images` it repeats; and the
    `most` worst of them as `repeats`, each with `uri`, `split` and `how`.
    """
    its_groups = groups.tolist()
    # From worst to least; images that share one key share the next.
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
                # A group may have thousands of images, and no more of them are named.
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
    """Images of the other splits by key, ordered by URI, for each list of keys."""
    images = [i for i, split in enumerate(splits) if split in others]
    images.sort(key=lambda i: (uris[i], splits[i]))
    found: list[dict[Any, list[int]]] = [{} for _ in keys]
    for i in images:
        for by_key, key in zip(found, keys, strict=True):
            by_key.setdefault(key[i], []).append(i)
    return found
