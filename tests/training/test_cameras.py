"""From a table with locations to a report, a bundle and an evaluation that tell cameras apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import monkeyray
from monkeyray.scoring.evaluation.evaluate import evaluate
from monkeyray.scoring.options import EvaluateConfig
from monkeyray.training.summary import Trained

QUIET = monkeyray.StoreConfig(quiet=True)


@pytest.fixture(scope="module")
def table(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs of three species, in sequences of two at seven sites; n9 is at two."""
    table = tmp_path_factory.mktemp("sites") / "labels.csv"
    lines = ["uri,label,location,sequence"]
    for path in sorted(few.glob("n*/*")):
        number = sorted(path.parent.iterdir()).index(path)
        site = number // 7 if path.parent.name == "n9" else number // 2
        lines.append(f"{path},{path.parent.name},valley-{site},{path.parent.name}-{number // 2}")
    table.write_text("\n".join(lines))
    return table


def test_cameras_from_labels_to_an_evaluation(
    table: Path, trained: Trained, tmp_path: Path
) -> None:
    features, model = f"{trained.uri}/features", tmp_path / "model"
    found = monkeyray.train(
        images=str(table), model=str(model), features=features, folds=3, store=QUIET
    )
    assert found.opened == 0
    data, metrics = found.model["data"], found.model["metrics"]
    assert data["locations"] == {
        "level": "location", "count": 7, "unknown": 0, "untested": [{"label": "n9", "locations": 2}]
    }  # fmt: skip
    cameras = metrics["estimate"]["cameras"]
    assert cameras["unseen"]["images"] == metrics["estimate"]["images"] == 28
    assert cameras["unseen"]["locations"] == 7
    assert found.to_json()["cameras"] == {
        side: cameras[side]["accuracy"] for side in ("unseen", "seen")
    }
    assert "not tested at an unseen camera, at fewer than 3 locations: n9 (2)" in str(found)
    page = (model / "report.html").read_text()
    assert "valley-3" in page
    assert "Cameras seen and unseen" in page
    assert "valley" not in (model / "model.json").read_text()
    content = json.loads((model / "metrics.json").read_text())
    assert len(content["findings"]["locations"]) == 7

    lines = table.read_text().splitlines()
    other = [line.replace("valley-0", "hill") for line in lines]
    (tmp_path / "other.csv").write_text("\n".join(other))
    result = evaluate(
        EvaluateConfig(
            model=str(model), images=str(tmp_path / "other.csv"), features=features,
            output=str(tmp_path / "out"), workers=1, store=QUIET,
        )
    )  # fmt: skip
    measured = result.content["metrics"]["cameras"]
    hill = sum("hill" in line for line in other)
    assert (measured["unseen"]["images"], measured["unseen"]["locations"]) == (hill, 1)
    assert (measured["seen"]["images"], measured["seen"]["locations"]) == (42 - hill, 6)
    assert {row["location"] for row in measured["by_location"]} >= {"hill", "valley-6"}
    assert "at unseen cameras: accuracy" in str(result)
