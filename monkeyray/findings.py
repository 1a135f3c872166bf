"""What a person should look at after a training: copies, likely label errors, mistakes, doubts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from monkeyray.assess import Assessment, suspicious_labels
from monkeyray.dataset import Dataset
from monkeyray.uris import join


def find(data: Dataset, found: Assessment, root: str) -> dict[str, Any]:
    """The findings in JSON's types; URIs below `root` are relative to it."""
    start = join(root, "")
    names = [uri.removeprefix(start) for uri in data.uris]
    truth = data.parts.truth
    return {
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
