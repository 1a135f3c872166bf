"""Scoring by boxes: real photographs, broken ones in the middle, through Ray."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from monkeyray.errors import RunError
from monkeyray.options import StoreConfig
from monkeyray.scoring.options import PADDING, RescoreConfig, ScoreConfig
from monkeyray.scoring.rescore import rescore
from monkeyray.scoring.score import score
from monkeyray.scoring.summary import Summary
from monkeyray.training.summary import Trained
from tests.support.megadetector import detection, results

#: Squares of whole pixels in an image of 512 by 512.
LEFT, RIGHT = (0.125, 0.25, 0.5, 0.5), (0.5, 0, 0.5, 0.5)
WHOLE = (0, 0, 1, 1)


@pytest.fixture
def collection(few: Path, tmp_path: Path) -> Path:
    """Photographs and broken files, and what a detector that saw them elsewhere says of them."""
    folder = tmp_path / "images"
    folder.mkdir()
    one, *others = sorted((few / "n0").iterdir())[:6]
    with Image.open(one) as image:
        square = image.convert("RGB").resize((512, 512))
    square.save(folder / "b.png")
    square.crop((64, 128, 320, 384)).save(folder / "b-left.png")
    square.crop((256, 0, 512, 256)).save(folder / "b-right.png")
    for name, path in zip(("blank", "car", "failed", "man", "new"), others, strict=True):
        shutil.copy(path, folder / f"{name}.jpg")
    (folder / "c-broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than this")
    (folder / "a-empty.jpg").write_bytes(b"")
    boxes: dict[str, list[Any]] = {
        "a-empty.jpg": [],
        "b.png": [detection(bbox=LEFT), detection("2", 0.5), detection(bbox=RIGHT, conf=0.3)],
        "b-left.png": [detection(bbox=WHOLE)],
        "b-right.png": [detection(bbox=WHOLE), detection(conf=0.05)],
        "blank.jpg": [detection(conf=0.1), detection(conf=-0.81)],
        "c-broken.jpg": [detection(), detection()],
        "car.jpg": [detection("3")],
        "man.jpg": [detection("2")],
        "gone.jpg": [detection()],
    }
    images: list[dict[str, Any]]
    images = [{"file": f"D:\\card\\{name}", "detections": its} for name, its in boxes.items()]
    images.append({"file": "D:\\card\\failed.jpg", "failure": "no", "detections": None})
    (tmp_path / "results.json").write_text(json.dumps(results(images)))
    return folder


def distance(one: dict[str, Any], other: dict[str, Any]) -> float:
    return math.dist(one["embedding"], other["embedding"])


def test_boxes_are_scored_and_all_else_passes_through(
    trained: Trained, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ScoreConfig(
        images=str(collection),
        model=trained.uri,
        predictions=str(tmp_path / "out"),
        detections=str(tmp_path / "results.json"),
        box_padding=0.0,
        embeddings=True,
        rows_per_file=4,  # the boxes of b.png are in two files
        batch_size=3,
        workers=1,
        store=StoreConfig(quiet=True),
    )
    summary = score(config)
    assert isinstance(summary, Summary)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    found = [
        (Path(row["uri"]).name, row["detection"], row["detection_category"], row["status"])
        for row in rows
    ]
    assert sorted(found, key=lambda row: (row[0], row[1] or 0)) == [
        ("a-empty.jpg", None, "blank", "empty"),
        ("b-left.png", 0, "animal", "ok"),
        ("b-right.png", 0, "animal", "ok"),
        ("b.png", 0, "animal", "ok"),
        ("b.png", 1, "person", "person"),
        ("b.png", 2, "animal", "ok"),
        ("blank.jpg", None, "blank", "blank"),
        ("blank.jpg", 1, "animal", "eliminated"),
        ("c-broken.jpg", 0, "animal", "unreadable"),
        ("c-broken.jpg", 1, "animal", "unreadable"),
        ("car.jpg", 0, "vehicle", "vehicle"),
        ("failed.jpg", None, "failure", "undetected"),
        ("man.jpg", 0, "person", "person"),
        ("new.jpg", None, None, "undetected"),
    ]
    assert "14 rows, one per box" in str(summary)
    assert summary.notes[f"images found in the detections, as {collection}/… for D:/card/…"] == 9
    by_key = {(Path(row["uri"]).name, row["detection"]): row for row in rows}
    # What a box shows is scored as a file that has just that.
    for number, name in ((0, "b-left.png"), (2, "b-right.png")):
        box, cut = by_key["b.png", number], by_key[name, 0]
        # But for the resize, which looks a pixel or two beyond the edge where there is more.
        assert distance(box, cut) < distance(by_key["b.png", 0], by_key["b.png", 2]) / 20
        assert box["label"] == cut["label"]
        assert (box["width"], box["height"]) == (512, 512)
    for row in rows:
        assert (row["label"] is None) == (row["status"] != "ok")
        # What passes through was opened as far as its header.
        readable = row["status"] not in ("empty", "unreadable")
        assert (row["width"] is not None) == readable
    assert by_key["b.png", 0]["sha256"] == by_key["b.png", 1]["sha256"]

    # Other boxes, or seen otherwise, are another run; the same are found finished.
    whole = replace(config, detections=None, box_padding=PADDING)
    for other in (replace(config, box_padding=PADDING), whole):
        with pytest.raises(RunError, match="detections is"):
            score(other)
    again = score(config)
    assert isinstance(again, Summary)
    assert (again.scored, again.statuses) == (0, summary.statuses)

    # A changed image has all of its boxes made again, and no other.
    with Image.open(collection / "b.png") as image:
        image.rotate(90).save(collection / "b.png")
    updated = score(replace(config, update=True))
    assert isinstance(updated, Summary)
    assert (updated.scored, updated.images) == (3, 14)
    # Once more, it finds nothing to do and keeps the run's id, which a rescoring refers to.
    run = (tmp_path / "out" / "_run.json").read_bytes()
    quiet = score(replace(config, update=True, retry_failed=True, store=StoreConfig()))
    assert isinstance(quiet, Summary)
    assert (quiet.scored, quiet.images) == (0, 14)
    assert "--update and --retry-failed found no image to score" in capsys.readouterr().err
    assert (tmp_path / "out" / "_run.json").read_bytes() == run
    changed = {
        (Path(row["uri"]).name, row["detection"]): row["embedding"]
        for row in pq.read_table(tmp_path / "out").to_pylist()
    }
    assert changed["b.png", 0] != by_key["b.png", 0]["embedding"]
    assert changed["b-left.png", 0] == by_key["b-left.png", 0]["embedding"]

    # And rescoring keeps the rows and their boxes.
    rescored = rescore(
        RescoreConfig(
            predictions=config.predictions, model=trained.uri, output=str(tmp_path / "rescored"),
            threshold=0.5, store=StoreConfig(quiet=True),
        )
    )  # fmt: skip
    assert rescored.statuses == summary.statuses
    kept = ["uri", "detection", "detection_bbox", "label"]
    old, new = (pq.read_table(tmp_path / name, columns=kept) for name in ("out", "rescored"))
    assert old.sort_by([("uri", "ascending"), ("detection", "ascending")]).equals(
        new.sort_by([("uri", "ascending"), ("detection", "ascending")])
    )
