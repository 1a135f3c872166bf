"""Copies are found, other pictures are not taken for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from monkeyray.arrays import Bytes
from monkeyray.statistics.duplicates import close_hashes, group_images
from monkeyray.statistics.fingerprints import SIDE
from monkeyray.statistics.leaks import leaks
from tests.support.pictures import jpeg, noise, seen


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**12)),
        max_size=25,
    ),
    st.integers(0, 9),
)
def test_close_hashes_are_those_of_brute_force(rows: list[tuple[int, int, int]], bits: int) -> None:
    # The third is a few bits from the first of the row before, or chance would find no pair.
    values = [(one, other, rows[i - 1][0] ^ few) for i, (one, other, few) in enumerate(rows)]
    hashes = np.array(values, np.uint64).reshape(-1, 3)
    found = {(i, j) for pairs in close_hashes(hashes, bits) for i, j in pairs.tolist()}
    assert found == {
        (i, j)
        for i, one in enumerate(values)
        for j, other in enumerate(values)
        if i != j and any((window ^ other[0]).bit_count() <= bits for window in one)
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((200, 150)),
        lambda image: image.resize((1280, 960)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: ImageEnhance.Contrast(image).enhance(0.7),
        lambda image: image.convert("L"),
        lambda image: image.crop((32, 0, 640, 480)),
        lambda image: image.crop((19, 14, 621, 466)),
        lambda image: image.crop((0, 14, 626, 480)).resize((500, 400)),
    ],
)
def test_altered_copies_are_grouped(change: object) -> None:
    assert callable(change)
    pictures = seen(jpeg(noise(0), 95), jpeg(change(noise(0)), 60), jpeg(noise(1)))
    assert group_images(["a", "b", "c"], pictures).tolist() == [0, 0, 2]
    # In whichever order they come.
    assert group_images(["c", "b", "a"], pictures[::-1]).tolist() == [0, 1, 1]


def test_turned_and_mirrored_images_are_other_pictures() -> None:
    mirrored = noise(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = noise(0).transpose(Image.Transpose.ROTATE_180)
    pictures = seen(*map(jpeg, (noise(0), mirrored, turned)))
    assert group_images(["a", "b", "c"], pictures).tolist() == [0, 1, 2]


def test_images_that_show_nothing_are_not_the_same() -> None:
    black = [jpeg(Image.new("L", (640, 480), level)) for level in (0, 3, 255)]
    assert group_images(["a", "b", "c"], seen(*black)).tolist() == [0, 1, 2]


def test_groups_join_contents_and_given_groups_transitively() -> None:
    groups = group_images(["a", "b", "a", "c", "d"], None, [None, "x", "y", "x", "y"])
    assert groups.tolist() == [0, 1, 0, 1, 0]
    assert group_images([], np.empty((0, SIDE, SIDE), np.uint8)).tolist() == []


def test_thousands_of_frames_of_a_still_camera_are_one_group() -> None:
    rng = np.random.default_rng(0)
    scenes = seen(*(jpeg(noise(seed)) for seed in range(2)))
    frames = scenes[np.arange(3000) % 2].astype(np.float64) + rng.normal(0, 3, (3000, SIDE, SIDE))
    groups = group_images([str(i) for i in range(3000)], np.clip(frames, 0, 255).astype(np.uint8))
    assert groups.tolist() == [0, 1] * 1500


# -- Real photographs --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def originals(photos: Path) -> tuple[list[Path], list[str], Bytes]:
    """All photographs, their content hashes and their thumbnails."""
    paths = sorted(photos.glob("n*/*"))
    files = [path.read_bytes() for path in paths]
    return paths, [hashlib.sha256(data).hexdigest() for data in files], seen(*files)


def altered(path: Path, rng: np.random.Generator, how: int) -> bytes:
    """A photograph encoded, scaled or cropped by 2 to 5 per cent anew, at random sides."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    quality = int(rng.integers(30, 91))
    if how == 1:
        scale = rng.uniform(0.25, 2)
        image = image.resize((round(width * scale), round(height * scale)))
    elif how == 2:
        cut = rng.uniform(0.02, 0.05, 4) * rng.permutation([1, 1, *rng.integers(0, 2, 2)])
        left, upper, right, lower = cut * [width, height, width, height]
        image = image.crop((round(left), round(upper), round(width - right), round(height - lower)))
    return jpeg(image, quality)


@pytest.mark.parametrize("seed", range(3))
def test_thirty_copies_in_a_test_folder_are_found(
    originals: tuple[list[Path], list[str], Bytes], seed: int
) -> None:
    paths, contents, pictures = originals
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(paths), 30, replace=False).tolist()
    copies = [
        paths[i].read_bytes() if number < 10 else altered(paths[i], rng, number % 3)
        for number, i in enumerate(chosen)
    ]
    uris = [str(path) for path in paths] + [f"copy-{number}" for number in range(30)]
    contents = contents + [hashlib.sha256(data).hexdigest() for data in copies]
    groups = group_images(contents, np.concatenate([pictures, seen(*copies)]))
    test = np.arange(len(paths) + 30) >= len(paths)
    rows = {row["uri"]: row for row in leaks(uris, test, contents, groups, groups, most=50)}
    found = [
        number
        for number, i in enumerate(chosen)
        if str(paths[i]) in {r["uri"] for r in rows.get(f"copy-{number}", {}).get("repeats", [])}
    ]
    assert found[:10] == list(range(10))
    assert {rows[f"copy-{number}"]["how"] for number in range(10)} == {"identical"}
    assert len(found) >= 25


def test_photographs_of_two_species_are_never_the_same(
    originals: tuple[list[Path], list[str], Bytes],
) -> None:
    paths, contents, pictures = originals
    groups = group_images(contents, pictures)
    species: dict[int, set[str]] = {}
    for path, group in zip(paths, groups.tolist(), strict=True):
        species.setdefault(group, set()).add(path.parent.name)
    assert all(len(its) == 1 for its in species.values())
    # 1,015 contents, and 41 pairs among them. Looked at, 40 are one photograph encoded, scaled,
    # cropped or marked anew, and one is two moments of the same animal.
    assert 39 <= len(set(contents)) - len(set(groups.tolist())) <= 43
