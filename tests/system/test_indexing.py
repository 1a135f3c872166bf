"""Tar archives in a store are indexed by a cluster's cores."""

from __future__ import annotations

import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from monkeyray.errors import MissingError
from monkeyray.images.listing import list_images
from monkeyray.options import StoreConfig
from monkeyray.runs.indexing import indexed_on_cluster
from monkeyray.storage.archives import Index
from monkeyray.storage.backends.protocol import Entry
from monkeyray.storage.store import Storage
from tests.support.files import upload

SEASON = "s3://photos/on a cluster"


def test_a_cluster_lists_as_one_machine_does(
    s3: Storage, ray_session: None, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(few.rglob("*.jpg"))
    folder = tmp_path / "season"
    folder.mkdir()
    for number in range(3):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for path in paths[number::3]:
                tar.add(path, f"{path.parent.name}/{path.name}")
    whole = (folder / "1.tar").read_bytes()
    (folder / "1.tar").write_bytes(whole[: len(whole) // 2])  # cut off
    (folder / "plain.jpg").write_bytes(paths[0].read_bytes())
    upload(s3, folder, SEASON)

    def listed(storage: Storage) -> tuple[pa.Table, Counter[str]]:
        skipped: Counter[str] = Counter()
        return pa.concat_tables(list_images(SEASON, storage, skipped)), skipped

    alone, here = listed(s3), list[str]()
    read_index = Storage._read_index

    def read_here(self: Storage, archive: Entry) -> Index:
        here.append(archive.uri)
        return read_index(self, archive)

    monkeypatch.setattr(Storage, "_read_index", read_here)
    config = StoreConfig(s3_endpoint=s3.s3_endpoint, quiet=True)
    with indexed_on_cluster(config, s3, config.reporter().say, None, False) as storage:
        assert listed(storage) == alone
        assert not here
        with pytest.raises(MissingError):
            storage.read_index(Entry("s3://photos/none.tar", None, None))
        # This machine's disk may be out of the cluster's reach.
        on_disk = storage.stat(f"{folder}/0.tar")
        assert storage.read_index(on_disk).names
        assert here == [on_disk.uri]
