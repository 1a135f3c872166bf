"""What a person should look at after a training: copies, likely label errors, mistakes, doubts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from monkeyray.assess import Assessment, suspicious_labels
from monkeyray.dataset import Dataset
from monkeyray.duplicates import leaks
from monkeyray.uris import join

Array = np.ndarray[Any, Any]


def find(data: Dataset, found: Assessment, root: str) -> dict[str, Any]:
    """The findings in JSON's types; URIs below `root` are relative to it."""
    start = join(root, "")
    names = [uri.removeprefix(start) for uri in data.uris]
    truth = data.parts.truth
    contents = data.table["sha256"].to_pylist()
    return {
        "leaks": leaks(names, data.names.tolist(), contents, data.pictures, data.groups),
        "duplicates": _duplicates(names, contents, data.pictures),
        "label_errors": [
            {
                "uri": names[each.index],
                "part": str(data.names[each.index]),
                "given": data.labels[each.given],
                "suggested": data.labels[each.suggested],
                "quality": each.quality,
            }
            for each in suspicious_labels(found, truth)
        ],
    }


def _duplicates(names: list[str], contents: list[str], pictures: Array) -> list[dict[str, Any]]:
    """The files of each picture that has several, and whether all of them are the same bytes."""
    members: dict[int, list[int]] = {}
    for image, picture in enumerate(pictures.tolist()):
        members.setdefault(picture, []).append(image)
    return [
        {
            "uris": [names[image] for image in images],
            "how": "identical" if len({contents[image] for image in images}) == 1 else "near",
        }
        for images in members.values()
        if len(images) > 1
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
