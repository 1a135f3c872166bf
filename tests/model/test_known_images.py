"""Images that a model was made with are known again, and no others."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import monkeyray.model.known_images
from monkeyray.errors import BundleError
from monkeyray.model.known_images import KnownImages, describe_known_images, remember
from monkeyray.statistics.fingerprints import SIDE, grey_thumbnail


def facts(files: list[bytes]) -> tuple[list[str], Any]:
    """SHA-256 and thumbnails of image files."""
    pictures = []
    for data in files:
        with Image.open(io.BytesIO(data)) as image:
            pictures.append(np.frombuffer(grey_thumbnail(image.convert("RGB")), np.uint8))
    contents = [hashlib.sha256(data).hexdigest() for data in files]
    return contents, np.array(pictures).reshape(-1, SIDE, SIDE)


def scaled(data: bytes) -> bytes:
    sink = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").resize((320, 240)).save(sink, "JPEG", quality=60)
    return sink.getvalue()


def test_photographs_are_recognised(photos: Path) -> None:
    files = [path.read_bytes() for path in sorted((photos / "n5").iterdir())[:24]]
    seen = remember(*facts(files[:12]))
    shown = [*files[6:18], scaled(files[2]), scaled(files[20])]
    contents, pictures = facts(shown)
    found = seen.find(contents, pictures)
    assert found.tolist() == ["identical"] * 6 + [""] * 6 + ["near", ""]
    assert seen.find(contents, None).tolist() == ["identical"] * 6 + [""] * 8
    assert seen.find([], None).tolist() == []
    again = KnownImages.from_arrays(seen.to_arrays())
    assert again.find(contents, pictures).tolist() == found.tolist()


def draw(images: int) -> tuple[list[str], Any]:
    contents = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(images)]
    pictures = np.full((images, SIDE, SIDE), 0, np.uint8)
    pictures[:, 0, 0] = np.arange(images) % 256
    return contents, pictures


def test_kept_hashes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monkeyray.model.known_images, "MOST_THUMBNAILS", 11)
    monkeypatch.setattr(monkeyray.model.known_images, "MOST_COMPARED", 100)
    contents, pictures = draw(101)
    seen = remember([*contents, *contents], np.concatenate([pictures, pictures]))
    assert seen.hashes.shape == (101, 16)
    assert seen.thumbnails[:, 0, 0].tolist() == list(range(0, 101, 10))
    assert seen.share == pytest.approx(11 / 101)
    assert seen.is_affordable(89)
    assert not seen.is_affordable(90)
    assert seen.find(contents[::-1], None).tolist() == ["identical"] * 101
    # Not by the order in which they were given, which tells of the machine's folders.
    assert remember(contents[::-1], pictures[::-1]).hashes.tolist() == seen.hashes.tolist()
    assert remember([], pictures[:0]).find(contents[:2], pictures[:2]).tolist() == ["", ""]


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": np.zeros((2, 15), np.uint8)},
        {"sha256": np.zeros((2, 16), np.int8)},
        {"thumbnails": np.zeros((2, 32), np.uint8)},
        {"locations": np.zeros((2, 32), np.uint8)},
        {"more": np.zeros(1)},
    ],
)
def test_damaged_arrays(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="list of known images is damaged"):
        KnownImages.from_arrays(remember(*draw(3)).to_arrays() | change)


def test_locations_are_known_by_name() -> None:
    seen = KnownImages.from_arrays(remember(*draw(3), ["site 2", "site 1", "site 2"]).to_arrays())
    found = seen.at(["site 1", None, "site 3", "site 2"])
    assert found is not None
    assert found.tolist() == [True, False, False, True]
    assert b"site" not in seen.locations.tobytes()
    assert KnownImages.from_arrays(remember(*draw(3)).to_arrays()).at(["site 1"]) is None


def test_known_images_are_described() -> None:
    found = np.array(["", "near", "identical", "near"], dtype=object)
    assert describe_known_images(found, list("abcd"), 0.5) == {
        "images": 3, "identical": 1, "near": 2, "compared": 0.5,
        "uris": [
            {"uri": "b", "how": "near"},
            {"uri": "c", "how": "identical"},
            {"uri": "d", "how": "near"},
        ],
    }  # fmt: skip
    assert describe_known_images(found[:1], ["a"], 0.0)["near"] is None
    assert describe_known_images(None, ["a"], 0.0)["images"] is None
