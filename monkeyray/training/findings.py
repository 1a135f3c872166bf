"""What to check after training: copies, likely label errors, mistakes and uncertain images."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monkeyray.arrays import Array
from monkeyray.pages.thumbnails import least_certain, thumbnails, worst_mistakes
from monkeyray.statistics.leaks import leaks
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.assess import Assessment, suspicious_labels
from monkeyray.training.dataset import Dataset

#: Likely label errors shown as pictures; all of them are listed.
_SHOWN = 48


def find(data: Dataset, found: Assessment, given: Mapping[str, str]) -> dict[str, Any]:
    """The findings in JSON's types. `given`: distinct names to show, by the images' URIs.

    `label_errors` has a row for each sequence, of whose images with one label one is named.
    """
    names = [given[uri] for uri in data.uris.tolist()]
    truth, unseen = data.folds.truth, np.flatnonzero(found.unseen)
    contents = data.table["sha256"].to_pylist()

    def answer(image: int) -> dict[str, Any]:
        probabilities = found.probabilities[image]
        return {
            "uri": names[image],
            "truth": data.labels[truth[image]],
            "label": data.labels[int(probabilities.argmax())],
            "score": float(probabilities.max()),
        }

    probabilities = found.probabilities[unseen]
    return {
        "contradictions": [
            row | {"images": [image | {"uri": given[image["uri"]]} for image in row["images"]]}
            for row in data.contradictions
        ],
        "leaks": leaks(names, data.test, contents, data.pictures, data.groups),
        "duplicates": _duplicates(names, contents, data.pictures, truth),
        "label_errors": [
            {
                "uri": names[each.index],
                "images": each.images,
                "split": "test" if data.test[each.index] else "train",
                "given": data.labels[each.given],
                "suggested": data.labels[each.suggested],
                "quality": each.quality,
            }
            for each in suspicious_labels(data, found)
        ],
        "locations": found.by_location,
        "mistakes": [answer(i) for i in unseen[worst_mistakes(truth[unseen], probabilities)]],
        "uncertain": [answer(i) for i in unseen[least_certain(probabilities)]],
    }


def with_pictures(
    findings: Mapping[str, Any], places: Mapping[str, tuple[str, str | None]], storage: Storage
) -> dict[str, Any]:
    """The findings with a `thumbnail` (None if unreadable) for each image that the report shows.
    `places`: each image's URI and version by its name."""
    shown = {
        "label_errors": findings["label_errors"][:_SHOWN],
        "mistakes": findings["mistakes"],
        "uncertain": findings["uncertain"],
    }
    uris = {row["uri"] for rows in shown.values() for row in rows}

    def read(name: str) -> bytes:
        uri, version = places[name]
        return storage.read(uri, version=version).data

    pictures = thumbnails(uris, read)
    return dict(findings) | {
        name: [row | {"thumbnail": pictures.get(row["uri"])} for row in findings[name]]
        for name in shown
    }


def _duplicates(
    names: Sequence[str], contents: list[str], pictures: Array, truth: Array
) -> list[dict[str, Any]]:
    """The files of each picture that has several of one label, and whether they are identical or
    near."""
    members: dict[int, list[int]] = {}
    for image, picture in enumerate(pictures.tolist()):
        members.setdefault(picture, []).append(image)
    return [
        {
            "uris": [names[image] for image in images],
            "how": "identical" if len({contents[image] for image in images}) == 1 else "near",
        }
        for images in members.values()
        if len(images) > 1 and len(set(truth[images].tolist())) == 1
    ]


def to_json(model: Mapping[str, Any], findings: Mapping[str, Any]) -> str:
    """metrics.json: the figures, the counts and the findings, for programs."""
    content = {
        "model_id": model["model_id"],
        "training": model["training"],
        "data": model["data"],
        "metrics": model["metrics"],
        "findings": findings,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


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
        found.setdefault(_place(uri), []).append(uri)
    # Cut at a slash, so that "1/" and "12/" have no "1" in common.
    starts = {place: os.path.commonprefix(its) for place, its in found.items()}  # noqa: RUF071
    return {place: start[: start.rindex("/") + 1] for place, start in starts.items()}


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
