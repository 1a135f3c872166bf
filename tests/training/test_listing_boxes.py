"""Training on crops: which box of an image, and its pixels and features through the whole chain."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from monkeyray.console import Reporter
from monkeyray.errors import ConfigError, InputError
from monkeyray.images.decode import decode
from monkeyray.images.detections import parse_detections
from monkeyray.model.backbones import load_weights
from monkeyray.model.bundle import Bundle
from monkeyray.model.network import Network, TensorFlowEngine
from monkeyray.runs.workers.pools import MachinePool
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.scoring.features import FeatureCache, Features, find_cached
from monkeyray.scoring.options import ScoreConfig
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from monkeyray.training.fitting.pixels import Decoder
from monkeyray.training.listing import NO_BOX, NOT_LISTED, best_animals, list_dataset
from monkeyray.training.options import TrainConfig
from tests.support.megadetector import detection, results

STORAGE = Storage()
LEFT, RIGHT = (0.0, 0.25, 0.25, 0.5), (0.5, 0.25, 0.25, 0.25)


def write(folder: Path, boxes: dict[str, list[Any]]) -> TrainConfig:
    """Labelled files, and what a detector says of some."""
    images = [{"file": name, "detections": its} for name, its in boxes.items()]
    (folder / "results.json").write_text(json.dumps(results(images)))
    return TrainConfig(
        images=str(folder / "images"),
        model=str(folder / "model"),
        detections=str(folder / "results.json"),
        box_padding=0.25,
    )


def test_the_surest_animal_stands_for_its_image(tmp_path: Path) -> None:
    boxes: dict[str, list[Any]] = {}
    for label in ("a", "b"):
        for number in range(5):
            path = tmp_path / "images" / label / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"never opened here")
            boxes[f"{label}/{number}.jpg"] = [detection(conf=0.3), detection(bbox=LEFT, conf=0.7)]
    boxes["a/0.jpg"].append(detection("2", 0.9))  # a person, who is surer
    boxes["a/1.jpg"] = [detection(conf=0.1), detection("3"), detection(conf=-0.9)]
    del boxes["b/4.jpg"]
    images, _, skipped = list_dataset(write(tmp_path, boxes), STORAGE)
    names = [Path(uri).name for uri in images["uri"].to_pylist()]
    assert names == ["0.jpg", "2.jpg", "3.jpg", "4.jpg", "0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert images["detection"].to_pylist() == [1] * 8
    assert images["detection_bbox"].to_pylist() == [list(LEFT)] * 8
    assert (skipped[NO_BOX], skipped[NOT_LISTED]) == (1, 1)

    for number in range(5):
        boxes[f"b/{number}.jpg"] = [detection("2")]
    with pytest.raises(InputError, match=r"no image of the label 'b'.*leave it out"):
        list_dataset(write(tmp_path, boxes), STORAGE)


def test_corrections_are_of_boxes_too(tmp_path: Path) -> None:
    boxes: dict[str, list[Any]] = {"n/no.jpg": [detection("2")], "n/new.jpg": [detection()]}
    for label in ("a", "b"):
        for number in range(5):
            path = tmp_path / "images" / label / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"never opened here")
            boxes[f"{label}/{number}.jpg"] = [detection(bbox=LEFT)]
    boxes["a/1.jpg"] = []
    (tmp_path / "labels.csv").write_text(
        "uri,label\nimages/a/0.jpg,b\nimages/a/1.jpg,b\nimages/n/new.jpg,b\nimages/n/no.jpg,d\n"
    )
    corrections = str(tmp_path / "labels.csv")
    # Twice, since what the first one adds is there for the second.
    config = replace(write(tmp_path, boxes), corrections=(corrections, corrections))
    images, _, skipped = list_dataset(config, STORAGE)
    rows = {row["uri"].removeprefix(f"{tmp_path}/images/"): row for row in images.to_pylist()}
    assert len(rows) == images.num_rows == 10
    assert (rows["a/0.jpg"]["label"], rows["a/0.jpg"]["detection_bbox"]) == ("b", list(LEFT))
    assert (rows["n/new.jpg"]["label"], rows["n/new.jpg"]["detection"]) == ("b", 0)
    assert not rows.keys() & {"a/1.jpg", "n/no.jpg"}
    assert skipped[NO_BOX] == 2


def test_a_given_split_without_animals_is_named() -> None:
    names = ["/p/1.jpg", "/p/2.jpg"]
    images = pa.table(
        {
            "uri": names,
            "size_bytes": pa.nulls(2, pa.int64()),
            "version": pa.nulls(2, pa.string()),
            "label": ["a", "a"],
            "given": ["train", "test"],
        }
    )
    content = results([{"file": "1.jpg", "detections": [detection()]}])
    found = parse_detections("/x.json", json.dumps(content).encode())
    with pytest.raises(InputError, match="given split 'test'"):
        best_animals(images, "/p", found, None, Counter())


def test_options_about_boxes_need_boxes() -> None:
    def train(**options: Any) -> TrainConfig:
        return TrainConfig(**{"images": "/i", "model": "/m", **options})

    def score(**options: Any) -> ScoreConfig:
        return ScoreConfig(**{"images": "/i", "model": "/m", "predictions": "/p", **options})

    for config in (train, score):
        for name, value in (("detection_threshold", 0.5), ("box_padding", 0.5)):
            with pytest.raises(ConfigError, match="--detections"):
                config(**{name: value})
        for name, value in (("detection_threshold", 1.5), ("box_padding", float("nan"))):
            with pytest.raises(ConfigError, match="it must be"):
                config(detections="/d.json", **{name: value})
    with pytest.raises(ConfigError, match="another place"):
        score(detections="/p/d.json")


def test_a_model_says_where_it_would_see_other_things_than_in_training() -> None:
    def told(boxes: Any, padding: float | None) -> str | None:
        return Bundle({"data": {"boxes": boxes}}, {}, {}, {}).unlike(padding)

    assert told(None, None) is told({"padding": 0.1}, 0.1) is None
    assert "whole images" in str(told(None, 0.1))
    for padding in (None, 0.2):
        assert "--box-padding 0.1" in str(told({"padding": 0.1}, padding))
    assert Bundle({}, {}, {}, {}).unlike(None) is None  # of an older version


def pasted(few: Path, folder: Path, where: tuple[float, ...]) -> Path:
    """A photograph in a part of a grey image of 800 by 400."""
    side = (int(where[2] * 800), int(where[3] * 400))
    with Image.open(sorted((few / "n0").iterdir())[0]) as image:
        photo = image.convert("RGB").resize(side)
    canvas = Image.new("RGB", (800, 400), (128, 128, 128))
    canvas.paste(photo, (int(where[0] * 800), int(where[1] * 400)))
    path = folder / "pasted.png"
    canvas.save(path)
    return path


def test_fine_tuning_sees_the_crop(few: Path, tmp_path: Path) -> None:
    path = pasted(few, tmp_path, LEFT)
    rows = pa.table({"uri": [str(path)], "version": ["v1"], "image": [0]})
    boxed = rows.append_column("bbox", pa.array([LEFT], pa.list_(pa.float32(), 4)))
    decoder = Decoder(STORAGE, 64, ("middle",), None, padding=0.0)
    whole, crop = decoder(rows)["pixels"], decoder(boxed)["pixels"]
    assert (crop[0] != 128).mean() > 0.9 > 2 * (whole[0] != 128).mean()
    expected = decode(path.read_bytes(), 64, views=("middle",), bbox=LEFT).pixels
    np.testing.assert_array_equal(crop[0], expected)


def test_features_are_of_the_crop_and_found_again_by_it(few: Path, tmp_path: Path) -> None:
    path = pasted(few, tmp_path, LEFT)
    backbone = load_weights("mobilenet", "imagenet", STORAGE, 0)
    network = Network("mobilenet", backbone, ("whole",))
    cache = FeatureCache(Location.of(str(tmp_path / "features")), STORAGE, network, padding=0.0)
    assert cache.place != FeatureCache(cache.folder, STORAGE, network).place

    def images(*boxes: tuple[float, ...]) -> pa.Table:
        entry, n = STORAGE.stat(str(path)), len(boxes)
        columns = {
            "uri": [str(path)] * n, "size_bytes": [entry.size_bytes] * n,
            "version": [entry.version] * n, "detection": pa.array(range(n), pa.int32()),
            "detection_category": ["animal"] * n,
            "detection_conf": pa.array([0.5] * n, pa.float32()),
            "detection_bbox": pa.array(boxes, pa.list_(pa.float32(), 4)),
        }  # fmt: skip
        return pa.table(columns)

    def get(*boxes: tuple[float, ...]) -> Features:
        workers = WorkerCount(1)
        return cache.get(images(*boxes), MachinePool(), workers, Reporter(True), tmp_path)

    first = get(LEFT)
    pixels = decode(path.read_bytes(), 224, bbox=LEFT).pixels[None]
    expected, _ = TensorFlowEngine(network)(pixels)
    np.testing.assert_allclose(first.vectors, expected, atol=1e-4)
    assert (first.found, get(LEFT).found) == (0, 1)
    # Of another file of detections.
    files = sorted(Path(cache.place.path).rglob("*.parquet"))
    assert find_cached(images(RIGHT), cache.load(files)).to_pylist() == [None]
    # Several boxes of a file have features of their own.
    both = get(RIGHT, LEFT)
    assert both.found == 1
    np.testing.assert_array_equal(both.vectors[1], first.vectors[0])
    assert np.abs(both.vectors[0] - both.vectors[1]).max() > 0.1
