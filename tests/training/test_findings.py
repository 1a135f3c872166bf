"""What a person is shown after a training, from a real one."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from monkeyray.options import StoreConfig
from monkeyray.training.options import TrainConfig
from monkeyray.training.train import train

Findings = dict[str, Any]


@pytest.fixture(scope="module")
def findings(few: Path, trained: object, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """Of a training with a given test split that repeats two of its images."""
    folder = tmp_path_factory.mktemp("findings")
    images = folder / "images"
    shutil.copytree(few, images)
    for label in ("n0", "n5", "n9"):
        (folder / "test" / label).mkdir(parents=True)
        for path in sorted((images / label).glob("n*"))[:4]:
            shutil.move(path, folder / "test" / label / path.name)
    shutil.copy(next((images / "n9").iterdir()), folder / "test" / "n9" / "copy.jpg")
    with Image.open(sorted((images / "n5").iterdir())[0]) as image:
        image.resize((300, 200)).save(folder / "test" / "n5" / "scaled.jpg", quality=60)
    model = folder / "model"
    train(
        TrainConfig(
            images=str(images), test=str(folder / "test"), model=str(model), folds=3,
            store=StoreConfig(quiet=True),
        )
    )  # fmt: skip
    page = (model / "report.html").read_text()
    found: Findings = json.loads((model / "metrics.json").read_text())
    return found | {"page": page, "root": str(folder)}


def test_label_errors_are_listed_most_doubtful_first(findings: Findings) -> None:
    found = findings["findings"]
    qualities = [row["quality"] for row in found["label_errors"]]
    assert qualities == sorted(qualities)
    for row in found["label_errors"]:
        assert row["given"] == Path(row["uri"]).parent.name != row["suggested"]
    for row in found["mistakes"]:
        assert row["truth"] == Path(row["uri"]).parent.name != row["label"]
    assert len(found["mistakes"]) >= 1
    assert len(found["uncertain"]) == 24


def test_images_that_the_test_split_repeats_are_named(findings: Findings) -> None:
    leaks = {Path(row["uri"]).name: row for row in findings["findings"]["leaks"]}
    assert {name: row["how"] for name, row in leaks.items()} == {
        "copy.jpg": "identical", "scaled.jpg": "near"
    }  # fmt: skip
    assert leaks["copy.jpg"]["uri"] == "test/n9/copy.jpg"
    assert findings["data"]["leaks"] == 2
    assert findings["metrics"]["test"]["without_leaks"]["images"] == 12
    pairs = [set(map(Path, row["uris"])) for row in findings["findings"]["duplicates"]]
    assert any({path.name for path in pair} >= {"copy.jpg"} for pair in pairs)


def test_figures_come_from_the_folds(findings: Findings) -> None:
    estimate = findings["metrics"]["estimate"]
    assert len(estimate["folds"]) == findings["data"]["folds"] == 3
    assert estimate["images"] == findings["data"]["splits"]["train"] == 30
    assert findings["metrics"]["test"]["images"] == findings["data"]["splits"]["test"] == 14
    assert findings["metrics"]["calibration"]["source"] == "out-of-fold"


def test_the_page_shows_the_pictures(findings: Findings) -> None:
    page = findings["page"]
    assert findings["findings"]["mistakes"][0]["uri"] in page
    assert findings["root"] not in page
    assert findings["root"] not in json.dumps(findings["findings"])
    # Those of both places are found again.
    assert not page.count("no picture")
    first = page.split("data:image/jpeg;base64,")[1].split('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(first))) as image:
        assert max(image.size) == 160
