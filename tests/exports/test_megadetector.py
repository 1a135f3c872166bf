"""MegaDetector batch results, checked against the published format."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monkeyray.errors import InputError
from monkeyray.exports.export import export
from monkeyray.exports.job import Export
from monkeyray.exports.options import ExportConfig
from monkeyray.options import StoreConfig
from tests.support.megadetector import check_format
from tests.support.predicted import MODEL_ID, predict, scored


def run(folder: Path, rows: Sequence[dict[str, Any]], **options: Any) -> tuple[Any, Export]:
    images = options.pop("images", "/x")
    predict(folder / "predictions", rows, images=images, threshold=0.5)
    config = ExportConfig(
        predictions=str(folder / "predictions"),
        format="megadetector",
        output=str(folder / "results.json"),
        store=StoreConfig(quiet=True),
        **options,
    )
    done = export(config)
    results = json.loads((folder / "results.json").read_text())
    check_format(results)
    return results, done


def test_every_kind_of_row(tmp_path: Path) -> None:
    (tmp_path / "taxa.csv").write_text(
        "label,latin_name,common_name,order\nfox,vulpes_vulpes,red fox,Carnivora\n"
    )
    rows = [
        scored("/x/A/fox 1.jpg", ("fox", 0.75), ("empty", 0.25)),
        {"uri": "/x/A/gone.jpg", "status": "missing", "error": "it is not there"},
        scored("/x/A/blank.jpg", ("empty", 1.0000001), ("deer", 0.0)),
        scored("/x/B/man.jpg", ("person", 0.5), ("fox", 0.5), status="truncated", error="cut"),
        scored("/x/B/car.jpg", ("vehicle", 0.5)),
        {"uri": "/x/B/film.MP4", "status": "unsupported", "error": "a video"},
    ]
    results, done = run(tmp_path, rows, taxonomy=str(tmp_path / "taxa.csv"))
    assert results["info"]["classifier"] == f"MonkeyRay {MODEL_ID}"
    assert results["info"]["classification_completion_time"] == "2026-03-04 05:06:07"
    names = {"0": "deer", "1": "empty", "2": "red fox", "3": "person", "4": "vehicle"}
    assert results["classification_categories"] == names
    described = results["classification_category_descriptions"]
    assert (described["0"], described["2"]) == ("deer", "carnivora;vulpes vulpes")
    fox, gone, blank, man, car = results["images"]
    assert fox == {
        "file": "A/fox 1.jpg",
        "detections": [
            {
                "category": "1",
                "conf": 0.75,
                "bbox": [0, 0, 1, 1],
                "classifications": [["2", 0.75], ["1", 0.25]],
            }
        ],
    }
    assert gone == {"file": "A/gone.jpg", "failure": "missing: it is not there", "detections": None}
    assert blank == {"file": "A/blank.jpg", "detections": []}
    assert [image["detections"][0]["category"] for image in (man, car)] == ["2", "3"]
    assert done.kinds == {"animal": 1, "failure": 1, "blank": 1, "human": 1, "vehicle": 1}
    assert "videos left out, since they are not scored: 1" in str(done)


def test_paths_are_relative_to_what_is_asked_for(tmp_path: Path) -> None:
    rows = [
        scored("/x/A/1.jpg", ("fox", 1.0)),
        scored("/x/A%20/2.jpg", ("fox", 1.0)),
        scored("file:///x/%FF.jpg", ("fox", 1.0)),
    ]
    results, _ = run(tmp_path, rows, images="/x/manifest.csv")
    files = [image["file"] for image in results["images"]]
    assert files == ["A/1.jpg", "A%20/2.jpg", "\udcff.jpg"]
    assert os.fsencode(files[2]) == b"\xff.jpg"
    results, _ = run(tmp_path / "top", rows, relative_to="/")
    assert [image["file"] for image in results["images"]][:2] == ["x/A/1.jpg", "x/A%20/2.jpg"]
    with pytest.raises(InputError, match=r"2\.jpg is not below /x/A: give --relative-to"):
        run(tmp_path / "below", rows, relative_to="/x/A")
    assert not (tmp_path / "below" / "results.json").exists()


def test_whole_bucket(tmp_path: Path) -> None:
    rows = [scored("s3://bucket/a/b/1.jpg", ("fox", 1.0))]
    results, _ = run(tmp_path, rows, images="s3://bucket/a")
    assert results["images"][0]["file"] == "b/1.jpg"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            # Labels are in NFC wherever they are read.
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
            .map(partial(unicodedata.normalize, "NFC"))
            .filter(str.strip),
            st.floats(0, 1, width=32),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda pair: pair[0],
    )
)
def test_any_labels_and_scores(
    tmp_path_factory: pytest.TempPathFactory, scores: list[tuple[str, float]]
) -> None:
    ordered = sorted(scores, key=lambda pair: -pair[1])
    results, _ = run(tmp_path_factory.mktemp("any"), [scored("/x/1.jpg", *ordered)])
    assert sorted(results["classification_categories"].values()) == sorted(x for x, _ in scores)
