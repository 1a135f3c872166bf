"""Hostile files: each has its status, none costs much memory, and none disturbs its neighbours."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from monkeyray.arrays import Array
from monkeyray.errors import DecodeError
from monkeyray.images.decode import Decoded, Limits, decode
from monkeyray.options import StoreConfig
from monkeyray.scoring.options import ScoreConfig
from monkeyray.scoring.score import score
from monkeyray.scoring.summary import Summary
from monkeyray.training.summary import Trained
from tests.support.hostile import hostile_files, odd_exif, segments, with_exif
from tests.support.pictures import encode

QUIET = StoreConfig(quiet=True)
SIZE = 224

#: What a file's content can be the cause of.
STATUSES = {"ok", "truncated", "damaged", "empty", "unsupported", "unreadable", "too_large"}

Hostile = dict[str, tuple[bytes, set[str]]]


@pytest.fixture(scope="module")
def photo(photos: Path) -> bytes:
    """A photograph as a camera writes it, in one scan."""
    for path in sorted((photos / "n0").iterdir()):
        data = path.read_bytes()
        if 0xC0 in [marker for marker, _, _ in segments(data)]:
            return data
    raise AssertionError("no baseline JPEG")


@pytest.fixture(scope="module")
def progressive(photos: Path) -> bytes:
    """A photograph as web sites have it, in several scans."""
    for path in sorted((photos / "n5").iterdir()):
        data = path.read_bytes()
        if 0xC2 in [marker for marker, _, _ in segments(data)]:
            return data
    raise AssertionError("no progressive JPEG")


@pytest.fixture(scope="module")
def hostile(photo: bytes) -> Hostile:
    return hostile_files(photo)


def status_of(
    data: bytes, size: int = SIZE, max_pixels: int = Limits.max_pixels
) -> tuple[str, str | None]:
    """The status and reason of a file, with what must hold for every one of them."""
    try:
        image = decode(data, size, Limits(max_pixels=max_pixels))
    except DecodeError as error:
        check_reason(error.reason)
        return error.kind, error.reason
    assert image.pixels[0].shape == (size, size, 3)
    assert image.pixels[0].dtype == np.uint8
    assert image.width > 0
    assert image.height > 0
    assert (image.error is None) == (image.status == "ok")
    if image.error:
        check_reason(image.error)
    return image.status, image.error


def check_reason(reason: str) -> None:
    """One line for a person, without what only this process or machine knows."""
    assert 5 < len(reason) < 300
    assert reason.splitlines() == [reason]
    assert not re.search(r"0x[0-9a-fA-F]{5,}|Traceback|BytesIO|/\w+/|\.py\b", reason), reason


def kind_of(name: str) -> str:
    return re.split(r"[-.]", name)[0]


# -- one file at a time ------------------------------------------------------------------------


def test_every_file_has_its_status(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as in the jobs' processes
    found = {name: status_of(data) for name, (data, _) in hostile.items()}
    wrong = {
        name: (*outcome, hostile[name][1])
        for name, outcome in found.items()
        if outcome[0] not in hostile[name][1]
    }
    assert not wrong
    assert len(hostile) >= 150
    counts = Counter(status for status, _ in found.values())
    assert counts.keys() == STATUSES
    assert min(counts.values()) >= 10, counts
    formats = Counter(kind_of(name) for name in hostile)
    assert all(formats[name] >= 10 for name in ("jpeg", "png", "gif", "webp", "tiff", "bmp"))
    # A reason tells what a file is, where a person could take it for a photograph.
    for name, words in (
        ("other-zip.jpg", "zip"), ("other-tar.jpg", "tar"), ("other-gzip.jpg", "gzip"),
        ("other-html.jpg", "HTML"), ("other-xml.jpg", "XML"), ("other-pdf.jpg", "PDF"),
        ("other-mp4.jpg", "video"), ("other-avi.jpg", "video"), ("other-mkv.jpg", "video"),
        ("other-heic.jpg", "HEIF"), ("raw-dng.dng", "raw"), ("raw-cr2.cr2", "raw"),
        ("png-header-cut-20.png", "Truncated"), ("png-magic.jpg", "PNG"), ("gif-0x0.gif", "GIF"),
        ("tiff-lzw-cut-60.tif", "TIFF"), ("png-bomb-65500x65500.png", "65500 x 65500"),
    ):  # fmt: skip
        assert words in (found[name][1] or ""), (name, found[name])


def test_the_files_are_the_same_each_time(hostile: Hostile, photo: bytes) -> None:
    assert hostile_files(photo) == hostile


_CHILD = """
import json, sys
from tests.support.hostile import hostile_files
from tests.system.test_hostile import peak_memory, status_of

files = hostile_files(open(sys.argv[1], "rb").read())
found = {name: status_of(data)[0] for name, (data, _) in files.items()}
print(json.dumps([found, peak_memory()]))
"""


def peak_memory() -> int:
    """Bytes of memory that this process has used at most."""
    try:
        # Not ru_maxrss: there, a process starts with what the one had that started it.
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def test_memory_stays_small(hostile: Hostile, photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(photo)
    here = Path(__file__).parent
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "photo.jpg")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[1])])},
        capture_output=True,
        check=False,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found, peak = json.loads(child.stdout.splitlines()[-1])
    # And with Pillow's own limit on pixels in force, as with a caller who has not lifted it.
    assert [name for name, status in found.items() if status not in hostile[name][1]] == []
    assert peak < 1.5 * 2**30, f"{peak / 2**20:.0f} MiB"


# -- damage by chance --------------------------------------------------------------------------


def _small() -> list[bytes]:
    """Small files of every format, so that damage by chance hits all parts of them."""
    values = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    image = Image.fromarray(values).resize((34, 26))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encode(image, exif=exif),
        encode(image, progressive=True),
        encode(image.convert("L"), restart_marker_blocks=1),
        encode(image.convert("CMYK")),
        encode(image, "MPO", save_all=True, append_images=[image]),
        encode(image, "PNG", exif=exif),
        encode(image.quantize(9), "PNG", transparency=3),
        encode(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        encode(image, "TIFF", tiffinfo={0x0112: 6}),
        encode(image, "TIFF", compression="tiff_lzw"),
        encode(image.convert("1"), "TIFF", compression="group4"),
        encode(image, "TIFF", compression="jpeg"),
        encode(image, "WEBP"),
        encode(image, "WEBP", lossless=True, exif=exif),
        encode(image, "BMP"),
        encode(image.quantize(9), "BMP"),
    ]


SMALL = _small()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file of `SMALL` with some damage: bytes that are changed, inserted, lost or cut off."""
    data = draw(st.sampled_from(SMALL))
    for _ in range(draw(st.integers(1, 5))):
        action = draw(st.sampled_from(["set", "flip", "insert", "lose", "double", "zero", "cut"]))
        # Headers are a small part of a file, and the more interesting one.
        last = max(len(data) - 1, 0)
        at = draw(st.integers(0, min(last, 200)) | st.integers(0, last))
        length = draw(st.integers(1, 40))
        piece = data[at : at + length]
        if action == "set":
            value = draw(st.sampled_from([b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xd9"]))
            data = data[:at] + value + data[at + len(value) :]
        elif action == "flip":
            bit = draw(st.integers(0, 7))
            data = data[:at] + bytes(byte ^ 1 << bit for byte in data[at : at + 1]) + data[at + 1 :]
        elif action == "insert":
            data = data[:at] + draw(st.binary(max_size=20)) + data[at:]
        elif action == "lose":
            data = data[:at] + data[at + length :]
        elif action == "double":
            data = data[:at] + piece + data[at:]
        elif action == "zero":
            data = data[:at] + bytes(len(piece)) + data[at + length :]
        else:
            data = data[:at]
    return data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_an_image_or_a_decode_error(data: bytes) -> None:
    assert status_of(data, 32, 10**6)[0] in STATUSES


@settings(max_examples=1500, deadline=None)
@given(damaged())
def test_any_damage_is_an_image_or_a_decode_error(data: bytes) -> None:
    assert status_of(data, 32, 10**6)[0] in STATUSES


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SMALL), st.data())
def test_truncated_files_are_not_misidentified(data: bytes, draws: st.DataObject) -> None:
    cut = data[: draws.draw(st.integers(16, len(data) - 1))]
    assert status_of(cut, 32)[0] in {"ok", "truncated", "unreadable"}


# -- EXIF --------------------------------------------------------------------------------------


def test_odd_exif_neither_loses_a_photograph_nor_its_orientation(photo: bytes) -> None:
    image = Image.open(io.BytesIO(photo)).resize((320, 200))
    plain = encode(image)
    upright, turned = decode(plain, 64).pixels[0], np.rot90(decode(plain, 64).pixels[0], -1)
    for name, block in odd_exif().items():
        decoded = decode(with_exif(plain, block), 64)
        sides = (decoded.width, decoded.height)
        assert sides in [(320, 200), (200, 320)], name
        expected = turned if sides == (200, 320) else upright
        np.testing.assert_array_equal(decoded.pixels[0], expected, err_msg=name)
        if block[10:12] == b"\x12\x01" and "orientation" not in name:
            assert sides == (200, 320), name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int, photo: bytes) -> None:
    image = Image.open(io.BytesIO(photo)).resize((320, 200))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for compression in ("raw", "tiff_lzw"):
        tiff = decode(
            encode(image, "TIFF", tiffinfo={0x0112: orientation}, compression=compression), 64
        )
        png = decode(encode(image, "PNG", exif=exif), 64)
        assert (tiff.width, tiff.height) == (png.width, png.height)
        # Turned before the resize or behind it, which differ by what they round.
        assert np.abs(tiff.pixels[0].astype(int) - png.pixels[0]).max() <= 1


# -- photographs that break off ----------------------------------------------------------------


def test_half_of_the_rows_is_enough(photo: bytes) -> None:
    picture = Image.open(io.BytesIO(photo)).resize((640, 480))
    rowed = encode(picture, quality=90, restart_marker_rows=1)
    whole = decode(rowed, SIZE).pixels[0]
    scan = next(start for marker, start, _ in segments(rowed) if marker == 0xDA)
    ends = [
        i + 2
        for i in range(scan, len(rowed) - 1)
        if rowed[i] == 0xFF and rowed[i + 1] in range(0xD0, 0xD8)
    ]
    assert len(ends) == 29
    for rows, end in enumerate(ends, start=1):
        status, _ = status_of(rowed[:end])
        # Of 30 rows of blocks, libjpeg may keep the last one back.
        if rows < 15:
            assert status == "unreadable", rows
        elif rows > 16:
            assert status == "truncated", rows
            check_upper_part(decode(rowed[:end], SIZE), whole, (rows - 1) / 30)


def test_truncated_photograph_keeps_its_upper_part(photo: bytes) -> None:
    whole = decode(photo, SIZE).pixels[0]
    shares = []
    for percent in range(2, 100, 4):
        cut = photo[: len(photo) * percent // 100]
        status, reason = status_of(cut)
        found = re.search(r"(\d+)% of its rows could be read", reason or "")
        share = int(found.group(1)) if found else 0
        assert status == ("truncated" if share >= 50 else "unreadable"), (percent, reason)
        shares.append(share)
        if status == "truncated":
            check_upper_part(decode(cut, SIZE), whole, share / 100)
    assert shares == sorted(shares)
    assert shares[0] < 10
    assert shares[-1] > 90


def check_upper_part(decoded: Decoded, whole: Array, share: float) -> None:
    """Its rows are those of the whole photograph; below them it is grey."""
    rows = int(share * SIZE)
    np.testing.assert_array_equal(decoded.pixels[0][: rows - 2], whole[: rows - 2])
    if share < 0.9:
        assert (decoded.pixels[0][-5:] == 128).all()


def test_a_progressive_photograph_needs_its_first_scan(progressive: bytes) -> None:
    whole = decode(progressive, SIZE).pixels[0].astype(int)
    scans = [(start, end) for marker, start, end in segments(progressive) if marker == 0xDA]
    assert len(scans) > 2
    start, end = scans[0]
    for cut in (start // 2, start, start + 20, (start + end) // 2, end - 1):
        assert status_of(progressive[:cut])[0] == "unreadable", (cut, scans)
    differences = []
    # Wherever the cut falls behind it: in a scan, or in the header of a segment.
    for _, end in scans[:-1]:
        for beyond in (2, 3, 4, 5, 10, 25, 60):
            status, reason = status_of(progressive[: end + beyond])
            assert status == "truncated", (end, beyond, reason)
        pixels = decode(progressive[: end + 2], SIZE).pixels[0]
        differences.append(float(np.abs(pixels - whole).mean()))
    assert differences == sorted(differences, reverse=True)
    assert differences[0] < 20


# -- in a job ----------------------------------------------------------------------------------


def test_photographs_among_hostile_files_score_as_without_them(
    trained: Trained, few: Path, embedded: Path, hostile: Hostile, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    photographs = sorted(few.rglob("*.jpg"))[::2]
    for path in photographs:
        # Their names are spread among those of the others.
        for copy in ("bmp", "jpeg-l", "other-m", "zebra"):
            shutil.copy(path, mixed / f"{copy}-{path.name}")
    for name, (data, _) in hostile.items():
        (mixed / name).write_bytes(data)
    summary = score(
        ScoreConfig(
            images=str(mixed),
            model=trained.uri,
            predictions=str(tmp_path / "scores"),
            top_k="all",
            store=QUIET,
        )
    )
    assert isinstance(summary, Summary)

    def rows_in(predictions: Path) -> dict[str, dict[str, Any]]:
        return {Path(row["uri"]).name: row for row in pq.read_table(predictions).to_pylist()}

    def scores(row: dict[str, Any]) -> list[float]:
        return [item["score"] for item in sorted(row["top_k"], key=lambda item: item["label"])]

    # Two in a file, and so in a batch.
    elsewhere, rows = rows_in(embedded), rows_in(tmp_path / "scores")
    reference = {path.name: elsewhere[path.name] for path in photographs}
    assert len(reference) == 21
    assert summary.images == len(rows)
    assert rows.keys() == {path.name for path in mixed.iterdir()}
    assert len(rows) == len(hostile) + 4 * len(reference)
    wrong = {
        name: (rows[name]["status"], rows[name]["error"], statuses)
        for name, (_, statuses) in hostile.items()
        if rows[name]["status"] not in statuses
    }
    assert not wrong
    counts = Counter(row["status"] for row in rows.values())
    assert counts.keys() == STATUSES  # so none crashed, and none took too long
    for name, row in rows.items():
        if row["status"] == "ok":
            assert row["error"] is None
        else:
            check_reason(row["error"])
            assert str(tmp_path) not in row["error"]
        assert (row["label"] is None) == (row["status"] not in ("ok", "truncated", "damaged")), name
        assert row["size_bytes"] == (mixed / name).stat().st_size
    for name, expected in reference.items():
        for copy in ("bmp", "jpeg-l", "other-m", "zebra"):
            row = rows[f"{copy}-{name}"]
            assert row["status"] == "ok"
            np.testing.assert_allclose(scores(row), scores(expected), atol=1e-5, rtol=0)
