"""Members of archives: neighbours come with one request."""

from __future__ import annotations

import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from monkeyray.images.decode import Limits
from monkeyray.images.listing import list_images
from monkeyray.runs.workers.batches import batches
from monkeyray.runs.workers.fetch import Fetched, Refusals
from monkeyray.storage.store import Storage


@dataclass(frozen=True)
class Counting(Storage):
    """Counts the requests for ranges and for whole files."""

    ranges: list[Any] = field(default_factory=list)
    reads: list[Any] = field(default_factory=list)

    def read_range(self, place: Any, start: int, end: int, version: str) -> bytes:
        self.ranges.append((start, end))
        return super().read_range(place, start, end, version)

    def read(self, place: Any, max_bytes: int | None = None, version: str | None = None) -> Any:
        self.reads.append(place)
        return super().read(place, max_bytes, version)


def fetched(storage: Storage, plan: pa.Table, limits: Limits, start: int = 0) -> list[Fetched]:
    refusals = Refusals(storage, 100)
    made = batches(plan, storage, limits, batch_size=7, threads=4, refusals=refusals, start=start)
    return [item for batch in made for item in batch.fetched]


def plan_of(place: Path) -> pa.Table:
    return pa.concat_tables(list_images(str(place), Storage(), Counter()))


FILES = {f"{number:03d}.jpg": bytes([number]) * (number * 1000) for number in range(100)}


@pytest.fixture(params=["a.tar", "stored.zip", "deflated.zip"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / str(request.param)
    if path.suffix == ".tar":
        with tarfile.open(path, "w") as tar:
            for name in FILES:
                tar.add(tmp_path / name, name)
    else:
        method = zipfile.ZIP_DEFLATED if "deflated" in path.name else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as packed:
            for name in FILES:
                packed.write(tmp_path / name, name)
    return path


@pytest.mark.parametrize("start", [0, 1, 50])
def test_neighbours_come_with_one_request(archive: Path, start: int) -> None:
    plan, storage = plan_of(archive), Counting()
    found = fetched(storage, plan, Limits(), start)
    assert [item.data for item in found] == list(FILES.values())[start:]
    assert [item.version for item in found] == plan["version"].to_pylist()[start:]
    assert (len(storage.ranges), storage.reads) == (1, [])


def test_boxes_of_an_image_share_its_bytes(archive: Path) -> None:
    rows = [0, 0, 1, 1, 1, 2, 99, 99]
    storage = Counting()
    found = fetched(storage, plan_of(archive).take(rows), Limits())
    assert [item.data for item in found] == [list(FILES.values())[row] for row in rows]
    assert len(storage.ranges) <= 2


def test_members_over_the_limit_are_not_read(archive: Path) -> None:
    storage = Counting()
    found = fetched(storage, plan_of(archive), Limits(max_bytes=50_000))
    assert [item.status for item in found] == ["ok"] * 51 + ["too_large"] * 49
    assert len(storage.ranges) == 1


def test_an_archive_that_was_changed_is_looked_into_again(archive: Path) -> None:
    plan = plan_of(archive)
    with tarfile.open(archive.parent / "new.tar", "w") as tar:
        for name in reversed(list(FILES)[1:]):
            tar.add(archive.parent / name, name)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for name in reversed(list(FILES)[1:]):
                packed.write(archive.parent / name, name)
    else:
        (archive.parent / "new.tar").replace(archive)
    found = fetched(Storage(), plan, Limits())
    assert [item.status for item in found] == ["missing"] + ["ok"] * 99
    assert [item.data for item in found][1:] == list(FILES.values())[1:]


def test_a_broken_archive_is_one_row_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x" * 1000)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "a.jpg", "1.jpg")
        tar.add(tmp_path / "a.jpg", "2.jpg")
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:4500])
    found = fetched(Storage(), plan_of(tmp_path / "a.tar"), Limits())
    assert [item.status for item in found] == ["ok", "unreadable"]
    assert "it ends after 4500 bytes" in (found[1].error or "")
