"""Files of one picture under several labels are found, named and left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from monkeyray.labels.contradictions import describe_contradictions, find_contradictions

URIS = ["fox/1", "fox/2", "hare/1", "hare/2", "owl/1", "fox/3", "fox/4", "hare/3", "owl/2"]
LABELS = [uri.split("/")[0] for uri in URIS]
#: fox/1 and fox/4 are the bytes of hare/2, and hare/1 and owl/1 the same picture; fox/2 is a near
#: copy of hare/3; fox/3 and owl/2 are unknown files.
CONTENTS = ["a", "b", "c", "a", "d", None, "a", "e", None]
PICTURES = np.array([0, 1, 0, 0, 0, 5, 0, 1, 8])


def test_contradictions_list_one_file_per_label_first() -> None:
    found = find_contradictions(URIS, LABELS, CONTENTS, PICTURES)
    assert json.loads(json.dumps(found.found)) == [
        {
            "how": how,
            "images": [
                {
                    "uri": uri,
                    "label": uri.split("/")[0],
                    "how": "identical" if uri in ("fox/1", "fox/4", "hare/2") else "near",
                }
                for uri in uris
            ],
        }
        for how, uris in (
            ("identical", ["fox/1", "hare/2", "owl/1", "fox/4", "hare/1"]),
            ("near", ["fox/2", "hare/3"]),
        )
    ]
    text = "\n".join(describe_contradictions(found.found, {"empty": 1}))
    assert text == (
        "WARNING: 2 pictures with files under several labels (identical bytes: 1, "
        "near-duplicates: 1): correct the labels, or give --drop-contradictions\n"
        "  the same bytes: fox/1 (fox), hare/2 (hare)\n"
        "  near-duplicates: fox/2 (fox), hare/3 (hare)"
    )
    lines = list(describe_contradictions(found.found * 4, {"contradictory": 7}))
    assert lines[0].endswith("): 7 files left out")
    assert lines[-1] == "  and 3 more, in metrics.json"
    assert len(lines) == 7
    assert list(describe_contradictions([], {})) == []


@pytest.mark.parametrize(
    ("drop", "left"),
    [
        ("none", URIS),
        ("identical", ["fox/2", "hare/1", "owl/1", "fox/3", "hare/3", "owl/2"]),
        ("all", ["fox/3", "owl/2"]),
    ],
)
def test_left_out_images(drop: str, left: list[str]) -> None:
    dropped = find_contradictions(URIS, LABELS, CONTENTS, PICTURES).dropped(drop)
    assert [uri for uri, out in zip(URIS, dropped, strict=True) if not out] == left
