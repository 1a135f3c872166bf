"""The demo collection: what a person or the trainer relies on when it is drawn."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, UnidentifiedImageError
from scipy.fft import dctn

from monkeyray.arrays import Flags
from monkeyray.cli.demo_images import (
    CAMERA_WITH_OFFSET,
    CAMERAS,
    FRAMES_PER_BURST,
    LABELS,
    DemoImages,
    draw_demo_images,
)

PER_LABEL, BURSTS = 10, 8


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoImages:
    folder = tmp_path_factory.mktemp("demo")
    return draw_demo_images(folder, labelled_per_label=PER_LABEL, bursts=BURSTS)


def _truth(demo: DemoImages) -> dict[str, str]:
    with open(demo.truth, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["uri", "label"]
    truth = {row["uri"]: row["label"] for row in rows}
    assert len(truth) == len(rows), "a file is listed twice"
    return truth


def _all_readable(demo: DemoImages) -> list[Path]:
    return sorted(demo.labelled.rglob("*.jpg")) + [demo.unlabelled / uri for uri in _truth(demo)]


def _bytes(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _exif(path: Path) -> tuple[Image.Exif, dict[int, Any]]:
    with Image.open(path) as image:
        exif = image.getexif()
    return exif, exif.get_ifd(ExifTags.IFD.Exif)


def _taken(path: Path) -> datetime:
    return datetime.strptime(_exif(path)[1][0x9003], "%Y:%m:%d %H:%M:%S")


def _bursts(demo: DemoImages) -> list[list[Path]]:
    bursts = []
    for site, camera in CAMERAS:
        frames = sorted((demo.unlabelled / site / camera).glob("IMG_0*.JPG"))
        bursts += [frames[i : i + FRAMES_PER_BURST] for i in range(0, len(frames), 3)]
    return bursts


def _hash(path: Path) -> Flags:
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L").resize((32, 32)), np.float64)
    low = dctn(grey, type=2, norm="ortho")[:8, :8].ravel()
    return np.asarray(low > np.median(low))


def _is_grey(path: Path) -> bool:
    with Image.open(path) as image:
        image.draft("RGB", (128, 96))
        red, green, blue = np.asarray(image, np.int16).transpose(2, 0, 1)
    return bool(np.abs(red - green).max() <= 2 and np.abs(blue - green).max() <= 2)


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        draw_demo_images(tmp_path / name, seed, labelled_per_label=1, bursts=2)
    first, second, other = (_bytes(tmp_path / name) for name in "abc")
    assert first == second
    pictures = [name for name in first if name.lower().endswith(".jpg") and "IMG_9" not in name]
    assert len(pictures) == 4 + 2 * FRAMES_PER_BURST
    # The second seed may place bursts on other labels, never draw the same picture.
    assert not {first[name] for name in pictures} & set(other.values())


def test_labelled_images_lie_in_a_folder_per_label(demo: DemoImages) -> None:
    assert sorted(path.name for path in demo.labelled.iterdir()) == sorted(LABELS)
    for label in LABELS:
        assert len(list((demo.labelled / label).glob("*.jpg"))) == PER_LABEL


def test_truth_lists_exactly_the_readable_unlabelled_images(demo: DemoImages) -> None:
    readable = set()
    for path in demo.unlabelled.rglob("*.*"):
        try:
            with Image.open(path) as image:
                image.load()
            readable.add(path.relative_to(demo.unlabelled).as_posix())
        except OSError:
            pass
    truth = _truth(demo)
    assert set(truth) == readable
    assert Counter(truth.values()) == dict.fromkeys(LABELS, BURSTS * FRAMES_PER_BURST // 4)
    assert {tuple(uri.split("/")[:-1]) for uri in truth} == set(CAMERAS)


def test_frames_of_a_burst_show_the_same_label(demo: DemoImages) -> None:
    truth = _truth(demo)
    bursts = _bursts(demo)
    assert len(bursts) == BURSTS
    for burst in bursts:
        assert len({truth[path.relative_to(demo.unlabelled).as_posix()] for path in burst}) == 1


def test_broken_files_are_broken_as_said(demo: DemoImages) -> None:
    truth = _truth(demo)
    empty, cut, text, page = sorted(demo.unlabelled.rglob("IMG_9*.JPG"), key=lambda p: p.name)
    assert not {p.relative_to(demo.unlabelled).as_posix() for p in (empty, cut, text, page)} & {
        *truth
    }
    assert empty.read_bytes() == b""
    with Image.open(cut) as image, pytest.raises(OSError, match="truncated"):
        image.load()
    whole = next(iter(sorted(demo.unlabelled.rglob("IMG_0001.JPG")))).stat().st_size
    assert cut.stat().st_size <= whole / 10
    for path in (text, page):
        with pytest.raises(UnidentifiedImageError):
            Image.open(path)
    assert text.read_text().startswith("Card was full")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert [p.name for p in demo.unlabelled.rglob("*.TXT")] == ["BATTERY.TXT"]


def test_images_are_rgb_jpegs_of_moderate_size(demo: DemoImages) -> None:
    for path in _all_readable(demo):
        assert path.stat().st_size < 250_000, path
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (1024, 768))


def test_exif_has_camera_and_local_times(demo: DemoImages) -> None:
    for path in _all_readable(demo):
        base, detail = _exif(path)
        assert (base[0x010F], base[0x0110]) == ("TrailSight", "TS-2")
        assert base[0x0132] == detail[0x9003]
        assert (0x9011 in detail) == (path.parent.name == CAMERA_WITH_OFFSET), path


def test_frames_of_a_burst_are_seconds_apart_and_bursts_in_order(demo: DemoImages) -> None:
    for burst in _bursts(demo):
        times = [_taken(path) for path in burst]
        steps = [b - a for a, b in pairwise(times)]
        assert all(timedelta(seconds=1) <= step <= timedelta(seconds=2) for step in steps), burst
    for site, camera in CAMERAS:
        frames = sorted((demo.unlabelled / site / camera).glob("IMG_0*.JPG"))
        times = [_taken(path) for path in frames]
        assert times == sorted(times)


def test_infrared_images_and_only_they_are_taken_at_night(demo: DemoImages) -> None:
    grey = 0
    paths = _all_readable(demo)
    for path in paths:
        taken = _taken(path)
        assert _is_grey(path) == (taken.hour >= 19 or taken.hour < 6), path
        grey += _is_grey(path)
    assert 0.25 < grey / len(paths) < 0.55


def test_labelled_images_are_no_near_duplicates(demo: DemoImages) -> None:
    for label in LABELS:
        hashes = np.stack([_hash(path) for path in sorted((demo.labelled / label).glob("*.jpg"))])
        distances = (hashes[:, None] != hashes[None]).sum(-1)
        np.fill_diagonal(distances, 64)
        assert np.mean(distances.min(axis=1) > 10) >= 0.8, label


def test_frames_of_a_burst_are_near_duplicates_but_not_equal(demo: DemoImages) -> None:
    near = 0
    for burst in _bursts(demo):
        first, *others = (_hash(path) for path in burst)
        near += all(int((first != other).sum()) <= 10 for other in others)
        assert len({path.read_bytes() for path in burst}) == FRAMES_PER_BURST
    assert near >= 0.75 * BURSTS
