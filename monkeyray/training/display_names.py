"""Names of images for publication: enough to find them, without the paths of the machine."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from monkeyray.storage.location import Location


def display_names(uris: Sequence[str], images: Location, test: Location | None = None) -> list[str]:
    """A distinct name for each image.

    Below `images` it is the path from there; below `test`, that folder's name and the path from
    there. Other images, such as those of manifests, are named from their common folder, one for
    each bucket.

    >>> images, test = Location.of("/d/all"), Location.of("/d/test")
    >>> display_names(["/d/all/n0/a.jpg", "/d/test/n0/a.jpg"], images, test)
    ['n0/a.jpg', 'test/n0/a.jpg']
    >>> display_names(["s3://b/x/1/a.jpg", "s3://b/x/2/a.jpg"], Location.of("/d/list.csv"))
    ['1/a.jpg', '2/a.jpg']
    """
    names = [images.relative(uri) for uri in uris]
    if test is not None:
        names = [
            f"{test.name or test.bucket}/{below}"
            if name is None and (below := test.relative(uri))
            else name
            for uri, name in zip(uris, names, strict=True)
        ]
    rest = [uri for uri, name in zip(uris, names, strict=True) if name is None]
    common = _common_folders(rest)
    return _distinct(
        [
            uri.removeprefix(common[_place(uri)]) if name is None else name
            for uri, name in zip(uris, names, strict=True)
        ]
    )


def _place(uri: str) -> str:
    """Scheme and bucket, which URIs must share to have a common folder."""
    return "/".join(uri.split("/")[:3]) if "://" in uri else ""


def _common_folders(uris: Sequence[str]) -> dict[str, str]:
    """The longest common folder of the URIs, by scheme and bucket, with a slash."""
    found: dict[str, list[str]] = {}
    for uri in uris:
        folder, place = uri.split("/")[:-1], _place(uri)
        before = found.get(place, folder)
        both = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(before, folder, strict=False)
        )
        found[place] = [part for part, _ in both]
    return {place: f"{'/'.join(parts)}/" for place, parts in found.items()}


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number after each repeated one."""
    taken, counts = set(names), Counter[str]()
    found = []
    for name in names:
        counts[name] += 1
        new = name
        if counts[name] > 1:
            while new in taken:
                new = f"{name} ({counts[name]})"
                counts[name] += new in taken
            taken.add(new)
        found.append(new)
    return found
