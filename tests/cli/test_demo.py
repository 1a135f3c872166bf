"""The demo from end to end, as the README promises it."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from monkeyray.cli.demo_images import draw_demo_images
from monkeyray.cli.main import main
from monkeyray.cli.parsing import parse
from monkeyray.scoring.options import ScoreConfig
from monkeyray.training.options import TrainConfig


def test_the_demo_trains_and_scores(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A third of the collection: drawing it is what takes longest.
    half = functools.partial(draw_demo_images, labelled_per_label=14, bursts=8)
    monkeypatch.setattr("monkeyray.cli.demo.draw_demo_images", half)
    folder = tmp_path / "demo"
    (folder / "predictions").mkdir(parents=True)
    (folder / ".monkeyray-demo").touch()
    for name in ("old.txt", "predictions/part-00000-00000000.parquet"):
        (folder / name).write_text("of an older demo")
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "link").symlink_to(outside)

    summary = tmp_path / "summary.json"
    main(["demo", "--folder", str(folder), "--summary-json", str(summary)])

    printed = capsys.readouterr()
    assert f"report {folder}/model/report.html" in printed.out
    assert f"{folder}/predictions/*.parquet" in printed.out
    # Of the demo: Ray marks the lines that other tests' workers print.
    assert not re.search("^Traceback", printed.err, re.MULTILINE)
    assert outside.is_dir()
    assert {path.name for path in folder.iterdir()} == {
        ".monkeyray-demo", "images", "model", "predictions",
    }  # fmt: skip
    assert "<html" in (folder / "model" / "report.html").read_text()

    rows = pq.read_table(sorted((folder / "predictions").glob("*.parquet"))).to_pylist()
    unlabelled = folder / "images" / "unlabelled"
    images = {str(path) for path in unlabelled.rglob("*.JPG")}
    assert len(rows) == len(images)
    assert {row["uri"] for row in rows} == images
    broken = {row["uri"]: row["status"] for row in rows if row["status"] != "ok"}
    assert {Path(uri).name: status for uri, status in broken.items()} == {
        "IMG_9001.JPG": "empty",
        "IMG_9002.JPG": "unreadable",
        "IMG_9003.JPG": "unsupported",
        "IMG_9004.JPG": "unsupported",
    }
    assert all(row["label"] is None for row in rows if row["uri"] in broken)

    with open(folder / "images" / "truth.csv", newline="") as file:
        truth = {str(unlabelled / line["uri"]): line["label"] for line in csv.DictReader(file)}
    right = Counter(truth[row["uri"]] == row["label"] for row in rows if row["uri"] in truth)
    assert right[True] / right.total() > 0.6

    result = json.loads(summary.read_text())["result"]
    assert result["trained"]["estimate"]["images"] > 0
    assert result["trained"]["model"] == str(folder / "model")
    assert result["scored"]["statuses"] == dict(Counter(row["status"] for row in rows))
    assert result["scored"]["scored_now"] == len(rows)
    # The options beside the results are those that made them.
    again = parse("train", ["--config", str(folder / "model" / "config.toml")], "monkeyray").config
    assert again == TrainConfig(
        images=str(folder / "images" / "labelled"), model=str(folder / "model")
    )
    beside = str(folder / "predictions" / "_config.toml")
    assert parse("score", ["--config", beside], "monkeyray").config == ScoreConfig(
        images=str(unlabelled),
        model=str(folder / "model"),
        predictions=str(folder / "predictions"),
        threshold=0.8,
    )
