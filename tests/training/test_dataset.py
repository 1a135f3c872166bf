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
from monkeyray.statistics.fingerprints import SIDE
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
    }
    return choose_images(
        config,
        images,
        Features(
            pa.table(columns),
            np.zeros((len(names), 1, 1), np.float32),
            # All black: of one that shows nothing no copy is known but by its bytes.
            np.zeros((len(names), SIDE, SIDE), np.uint8),
            0,
        ),
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


# -- locations ----------------------------------------------------------------------------------


def at_sites(
    path: Path, sites: int = 6, columns: str = "uri,label,split,location,deployment,sequence"
) -> str:
    """Sequences of two images of each of two labels at each site, c at two sites only; the last
    image of each label is a test image."""
    rows = [
        (f"{label}-{site}-{i}.jpg", label, split, f"site {site}", "cam", str(i // 2))
        for site in range(sites)
        for label in ("a", "b", *("c" if site < 2 else ""))
        for split, number in (("train", 12), ("test", 1))
        for i in range(20 * (split == "test"), 20 * (split == "test") + number)
    ]
    width = columns.count(",") + 1
    return write_manifest(path, [row[:width] for row in rows], columns)


def test_folds_are_of_locations_where_they_are_known(tmp_path: Path) -> None:
    images = at_sites(tmp_path / "list.csv")
    found = choose(config_of(tmp_path, images, folds=3))
    assert found.locations is not None
    assert found.data["locations"] == {
        "level": "location", "count": 6, "unknown": 0, "untested": [{"label": "c", "locations": 2}]
    }  # fmt: skip
    assert found.data["not_by_location"] is None
    for site in range(6):
        its = (found.locations == f"site {site}") & ~found.test
        assert len(set(found.folds.fold[its & (found.folds.fold >= 0)])) == 1
    c = found.folds.truth == 2
    assert set(found.folds.fold[c & ~found.test]) == {IN_NO_FOLD}
    back = found.folds.held_back(3)
    assert len(back) == 4 * 6  # one sequence of each site
    assert len(set(found.groups[back])) == 6
    # Sequences have the same numbers at all sites; those of a test image are others.
    assert len(set(found.sequences)) == 6 * 7
    assert not found.leaked.any()


@pytest.mark.parametrize(
    ("level", "columns", "note"),
    [
        ("sequence", "uri,label,split,location,deployment,sequence", None),
        (None, "uri,label,split,location", "no label is at 3 different locations"),
        (None, "uri,label,split", None),
    ],
)
def test_folds_are_of_pictures_and_sequences_otherwise(
    tmp_path: Path, level: str | None, columns: str, note: str | None
) -> None:
    images = at_sites(tmp_path / "list.csv", 2 if note else 6, columns)
    found = choose(config_of(tmp_path, images, group_by=level))
    assert found.locations is found.folds.second is found.data["locations"] is None
    assert (found.data["not_by_location"] or "").startswith(note or "")
    assert bool(found.data["not_by_location"]) == bool(note)
    assert (found.folds.fold[~found.test] >= 0).all()


def test_locations_that_share_a_picture_are_in_one_fold(tmp_path: Path) -> None:
    images = at_sites(tmp_path / "list.csv")
    config = config_of(tmp_path, images, group_by="deployment")
    found = choose(config, copies={"a-0-0.jpg": "a-3-4.jpg"})
    assert found.locations is not None
    # Cameras have the same names at all sites.
    assert set(found.locations) == {f"site {site}/cam" for site in range(6)}
    both = np.isin(found.locations, ["site 0/cam", "site 3/cam"]) & (found.folds.fold >= 0)
    assert len(set(found.folds.fold[both])) == 1


@pytest.mark.parametrize(
    ("level", "columns", "words"),
    [
        ("location", "uri,label,split", "--group-by location, but no image has a location"),
        ("deployment", "uri,label,split,location", "--group-by deployment, but no image has a dep"),
        ("location", "uri,label,split,location", "no label is at 3 different locations"),
    ],
)
def test_locations_that_were_asked_for_and_do_not_suffice(
    tmp_path: Path, level: str, columns: str, words: str
) -> None:
    images = at_sites(tmp_path / "list.csv", 2, columns)
    with pytest.raises(InputError, match=words):
        choose(config_of(tmp_path, images, group_by=level))


def test_images_of_unknown_locations_are_learned_and_not_tested(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    at_sites(path)
    images = write_manifest(
        path, [(f"new{i}.jpg", "a", "train", "", "", "") for i in range(9)], path.read_text()
    )
    found = choose(config_of(tmp_path, images))
    assert found.data["locations"]["unknown"] == 9
    new = np.array(["new" in uri for uri in found.uris])
    assert set(found.folds.fold[new]) == {IN_NO_FOLD}
    more = [(f"more{i}.jpg", "a", "train", "", "", "") for i in range(200)]
    images = write_manifest(path, more, path.read_text())
    found = choose(config_of(tmp_path, images))
    assert found.locations is None
    assert found.data["not_by_location"] == (
        "that would test only 144 of the 377 training images, of 2 labels, since the others are at "
        "fewer than 3 or unknown locations"
    )
    found = choose(config_of(tmp_path, images, group_by="location"))
    assert found.data["locations"]["unknown"] == 209


def test_given_validation_images_come_before_locations(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    at_sites(path)
    more = [(f"v{i}.jpg", "a", "validation", f"site {i % 2}", "", "") for i in range(9)]
    images = write_manifest(path, more, path.read_text())
    found = choose(config_of(tmp_path, images, fine_tune="1-block"))
    assert found.data["not_by_location"] == "the given validation images are a fold of their own"
    first = {Path(uri).name[0] for uri in found.uris[found.folds.fold == 0]}
    assert first == {"v"}
    # If locations are asked for, theirs are the first fold.
    found = choose(config_of(tmp_path, images, fine_tune="1-block", group_by="location"))
    assert found.locations is not None
    assert set(found.locations[found.folds.fold == 0]) == {"site 0", "site 1"}
