"""The images of a training: which are in which fold, how much each counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monkeyray.errors import InputError
from monkeyray.scoring.features import Features
from monkeyray.statistics.fingerprints import THUMBNAIL_BYTES
from monkeyray.statistics.splits import IN_NO_FOLD, TEST
from monkeyray.storage.store import Storage
from monkeyray.training.dataset import Dataset, choose_images, weigh
from monkeyray.training.listing import list_dataset
from monkeyray.training.options import TrainConfig


@given(st.lists(st.integers(0, 4), min_size=1, max_size=100), st.sampled_from(["balanced", "sqrt"]))
def test_weights_are_one_on_average_and_favour_the_rare(truth: list[int], kind: str) -> None:
    labels = np.array(truth)
    train = np.arange(len(labels))
    weight = weigh(labels, train, kind)
    assert weight is not None
    assert weight.mean() == pytest.approx(1)
    counts = np.bincount(labels, minlength=5)
    each = {label: weight[labels == label][0] for label in set(truth)}
    for one in each:
        for other in each:
            ratio = (counts[other] / counts[one]) ** (1 if kind == "balanced" else 0.5)
            assert each[one] / each[other] == pytest.approx(ratio)


def test_only_training_images_are_counted() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    assert weigh(truth, np.arange(8), "none") is None
    for train, expected in (([0, 1, 3, 4], [1, 1]), ([0, 3, 4, 5], [2, 2 / 3])):
        weight = weigh(truth, np.array(train), "balanced")
        assert weight is not None
        np.testing.assert_allclose(weight[[0, 7]], expected)


# -- splits -------------------------------------------------------------------------------------


def write_manifest(
    path: Path, rows: Sequence[tuple[str, ...]], columns: str = "uri,label,split"
) -> str:
    path.write_text("\n".join([columns, *(",".join(row) for row in rows)]))
    return str(path)


def config_of(tmp_path: Path, images: str, **options: Any) -> TrainConfig:
    return TrainConfig(images=images, model=str(tmp_path / "model"), **options)


def choose(config: TrainConfig, bad: str = "", copies: dict[str, str] | None = None) -> Dataset:
    """The data of a training none of whose images is opened: those with `bad` in their names can
    not be read, and `copies` have the bytes of another."""
    images, _, skipped = list_dataset(config, Storage())
    names = [Path(uri).name for uri in images["uri"].to_pylist()]
    same = copies or {}
    columns = {
        "status": ["empty" if bad and bad in name else "ok" for name in names],
        "sha256": [hashlib.sha256(same.get(name, name).encode()).hexdigest() for name in names],
        # All black: of one that shows nothing no copy is known but by its bytes.
        "thumbnail": pa.nulls(len(names), pa.binary(THUMBNAIL_BYTES)),
    }
    return choose_images(
        config,
        images,
        Features(pa.table(columns), np.zeros((images.num_rows, 1, 1), np.float32), 0),
        skipped,
    )


def in_splits(**counts: int) -> list[tuple[str, ...]]:
    return [
        (f"{split}-{label}{i}.jpg", label, split)
        for split, count in counts.items()
        for label in "ab"
        for i in range(count)
    ]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_given_split_without_readable_images_is_named(tmp_path: Path, split: str) -> None:
    images = write_manifest(tmp_path / "list.csv", in_splits(train=20, validation=4, test=4))
    config = config_of(tmp_path, images)
    assert choose(config).data["splits"] == {"train": 48, "test": 8}
    words = rf"none of the 8 images of the given {split} split can be used \(8 empty\)"
    with pytest.raises(InputError, match=words):
        choose(config, bad=split)


def test_a_test_place_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    rows = [(name, label) for name, label, _ in in_splits(train=20)]
    images = write_manifest(tmp_path / "images.csv", rows, "uri,label")
    rows = [(name, label) for name, label, _ in in_splits(test=3)]
    test = write_manifest(tmp_path / "test.csv", rows, "uri,label")
    config = config_of(tmp_path, images, test=test, limit=30)
    with pytest.raises(InputError, match=r"test split \(--test .*test.csv\).*\(with --limit 30\)"):
        choose(config, bad="test")


def test_a_limit_keeps_images_of_every_given_split(tmp_path: Path) -> None:
    images = write_manifest(tmp_path / "list.csv", in_splits(train=200, validation=1, test=1))
    for seed in range(5):
        kept, _, _ = list_dataset(config_of(tmp_path, images, limit=20, seed=seed), Storage())
        assert Counter(kept["given"].to_pylist()) == {"train": 16, "validation": 2, "test": 2}
    with pytest.raises(InputError, match="--limit 2 leaves no image of the given"):
        list_dataset(config_of(tmp_path, images, limit=2), Storage())


def test_impossible_folds_are_refused_before_an_image_is_opened(tmp_path: Path) -> None:
    rows = [(f"{label}{i}.jpg", label, label) for label in "ab" for i in range(20)]
    images = write_manifest(tmp_path / "list.csv", rows, "uri,label,group")
    words = r"no label has two different pictures .*\(with --limit 30\)"
    with pytest.raises(InputError, match=words):
        list_dataset(config_of(tmp_path, images, limit=30), Storage())


def test_labels_that_are_hard_to_measure_are_named(tmp_path: Path) -> None:
    rows = [*in_splits(train=30, validation=2, test=2)]
    rows += [(f"c{i}.jpg", "c", "train") for i in range(30)]
    rows += [(f"Y{i}.jpg", "Y", "train") for i in range(4)] + [("Y-test.jpg", "Y", "test")]
    rows += [(f"Z-{split}.jpg", "Z", split) for split in ("train", "test")]
    found = choose(config_of(tmp_path, write_manifest(tmp_path / "list.csv", rows)))
    assert found.data["rare_labels"] == [
        {"label": "Z", "train": 1, "groups": 1, "test": 1},
        {"label": "Y", "train": 4, "groups": 4, "test": 1},
        {"label": "c", "train": 30, "groups": 30, "test": 0},
    ]
    of_z = found.folds.fold[found.folds.truth == found.labels.index("Z")]
    assert sorted(of_z) == [TEST, IN_NO_FOLD]


def test_copies_of_test_images_are_counted(tmp_path: Path) -> None:
    images = write_manifest(tmp_path / "list.csv", in_splits(train=20, validation=4, test=4))
    copies = {
        "validation-a0.jpg": "train-a0.jpg",
        "validation-b0.jpg": "test-b0.jpg",
        "train-b0.jpg": "test-b1.jpg",
    }
    found = choose(config_of(tmp_path, images), copies=copies)
    assert found.data["leaks"] == found.leaked.sum() == 2


@pytest.mark.parametrize("layers", [None, "1-block"])
def test_validation_images_are_the_first_fold_of_a_fine_tuning(
    tmp_path: Path, layers: str | None
) -> None:
    images = write_manifest(tmp_path / "list.csv", in_splits(train=20, validation=8, test=4))
    copies = {"train-a0.jpg": "validation-a0.jpg"}
    found = choose(config_of(tmp_path, images, fine_tune=layers), copies=copies)
    first = {Path(uri).name for uri in found.uris[found.folds.fold == 0]}
    given = {f"validation-{label}{i}.jpg" for label in "ab" for i in range(8)}
    assert (first == {*given, "train-a0.jpg"}) == (layers is not None)
    assert found.folds.count == 5


@pytest.mark.parametrize(
    ("drop", "left_out", "splits"),
    [("none", {}, [48, 8]), ("identical", {"contradictory": 3}, [46, 7])],
)
def test_contradictory_labels(
    tmp_path: Path, drop: str, left_out: dict[str, int], splits: list[int]
) -> None:
    images = write_manifest(tmp_path / "list.csv", in_splits(train=20, validation=4, test=4))
    copies = {
        "train-b0.jpg": "train-a0.jpg",
        "test-b1.jpg": "train-a0.jpg",
        "validation-a1.jpg": "train-a1.jpg",
    }
    found = choose(config_of(tmp_path, images, drop_contradictions=drop), copies=copies)
    (row,) = found.contradictions
    assert row["how"] == "identical"
    assert [(Path(image["uri"]).name, image["label"]) for image in row["images"]] == [
        ("test-b1.jpg", "b"), ("train-a0.jpg", "a"), ("train-b0.jpg", "b")
    ]  # fmt: skip
    assert found.data["contradictions"] == 1
    assert found.data["unusable"] == left_out
    assert list(found.data["splits"].values()) == splits
    for column in (found.table, found.images, found.vectors, found.groups, found.folds.fold):
        assert len(column) == sum(splits)


def test_contradictions_that_are_all_there_is_of_a_label(tmp_path: Path) -> None:
    images = write_manifest(tmp_path / "list.csv", in_splits(train=20, validation=4, test=1))
    config = config_of(tmp_path, images, drop_contradictions="all")
    words = r"none of the 2 images of the given test split can be used \(2 contradictory\)"
    with pytest.raises(InputError, match=words):
        choose(config, copies={"test-a0.jpg": "test-b0.jpg"})
