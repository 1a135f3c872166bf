"""Damaged files of labels end in a table or in an error that names the file."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monkeyray.errors import MonkeyRayError
from tests.support.labelled import read

_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 1e308, float("nan"), "", "x", "\ud800", [], [1, "2"], {}]
)
_GOOD: dict[str, Any] = {
    "coco": {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9, "location": 3}],
        "categories": [{"id": 1, "name": "fox"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
    },
    "package": {
        "profile": "x",
        "taxonomic": [{"scientificName": "Vulpes vulpes", "family": "Canidae"}],
        "resources": [
            {"name": "media", "data": [{"mediaID": "m", "deploymentID": "d", "filePath": "a.jpg",
                                        "timestamp": "2020-05-30T02:57:40Z"}]},
            {"name": "observations",
             "data": [{"mediaID": "m", "deploymentID": "d", "observationLevel": "media",
                       "observationType": "animal", "scientificName": "Vulpes vulpes"}]},
        ],
    },
}  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, each in items if isinstance(value, dict | list) else ():
        found += (
            [(*path, key), *places(each, (*path, key))]
            if isinstance(each, dict | list)
            else [(*path, key)]
        )
    return found


@pytest.mark.parametrize("kind", _GOOD)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_odd_values(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = json.loads(json.dumps(_GOOD[kind]))
    *way, last = data.draw(st.sampled_from(places(content)))
    inner = content
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(_ODD)
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with contextlib.suppress(MonkeyRayError):
        table = read(tmp_path / "labels.json")
        assert table.num_rows <= 1


def test_intact_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    for kind, label in (("coco", "fox"), ("package", "Vulpes vulpes")):
        (tmp_path / "labels.json").write_text(json.dumps(_GOOD[kind]))
        assert read(tmp_path / "labels.json")["label"].to_pylist() == [label]
