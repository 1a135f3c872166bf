"""Tar and zip archives in a real S3 server, beside the same photographs as files."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import monkeyray
import monkeyray.storage.store
from monkeyray.errors import MissingError
from monkeyray.images.listing import list_images
from monkeyray.runs.cluster import connected
from monkeyray.runs.indexing import indexed_on_cluster
from monkeyray.storage.archives import Index
from monkeyray.storage.backends.protocol import Entry
from monkeyray.storage.store import Storage
from monkeyray.training.summary import Trained
from tests.support.faulty import FaultyProxy
from tests.support.files import upload

COMPARED = ["label", "score", "status", "width", "captured_at", "sha256", "size_bytes"]


@pytest.fixture(scope="module")
def packed(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs of three species in three archives."""
    folder = tmp_path_factory.mktemp("packed")
    paths = sorted(few.rglob("*.jpg"))
    with tarfile.open(folder / "a.tar", "w") as tar:
        for path in paths:
            tar.add(path, f"few/{path.parent.name}/{path.name}")
    for name, method in (("s.zip", zipfile.ZIP_STORED), ("d.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / name, "w", method) as archive:
            for path in paths:
                archive.write(path, f"few/{path.parent.name}/{path.name}")
    return folder


def score(
    images: str, model: str, out: Path, endpoint: str | None = None, update: bool = False
) -> pa.Table:
    monkeyray.score(
        images=images, model=model, predictions=str(out), workers=1, update=update,
        store=monkeyray.StoreConfig(quiet=True, s3_endpoint=endpoint),
    )  # fmt: skip
    return pq.read_table(out).sort_by("sha256")


def test_members_are_scored_as_files_are(
    s3: Storage, few: Path, packed: Path, trained: Trained, tmp_path: Path
) -> None:
    files = score(str(few), trained.uri, tmp_path / "files")
    upload(s3, packed, "s3://photos/packed")
    assert s3.s3_endpoint is not None
    for name in ("a.tar", "s.zip", "d.zip"):
        local = score(str(packed / name), trained.uri, tmp_path / name)
        assert local.select(COMPARED).equals(files.select(COMPARED))
        if name == "s.zip":
            continue
        with FaultyProxy(s3.s3_endpoint) as proxy:
            place = f"s3://photos/packed/{name}"
            remote = score(place, trained.uri, tmp_path / f"s3-{name}", proxy.url)
            # The listing, the index and the images, at 16 MiB a request.
            assert proxy.requests < 12
        assert remote.select(COMPARED).equals(files.select(COMPARED))

    uri = next(uri for uri in remote["uri"].to_pylist() if "/n5/" in uri)
    assert uri.startswith("s3://photos/packed/d.zip#few/n5/")
    found = monkeyray.load_model(trained.uri).predict(
        [uri.replace("s3://photos/packed", str(packed))]
    )
    assert found["label"][0] == remote.filter(pc.equal(remote["uri"], uri))["label"][0]


def test_a_head_is_trained_on_members(packed: Path, trained: Trained, tmp_path: Path) -> None:
    done = monkeyray.train(
        images=str(packed / "a.tar"), model=str(tmp_path / "model"),
        store=monkeyray.StoreConfig(quiet=True),
    )  # fmt: skip
    assert done.model["labels"] == trained.model["labels"]
    assert done.model["metrics"]["test"] == trained.model["metrics"]["test"]


def test_an_update_scores_only_what_was_added(few: Path, trained: Trained, tmp_path: Path) -> None:
    paths = sorted(few.rglob("*.jpg"))
    season, out = tmp_path / "season.tar", tmp_path / "out"
    with tarfile.open(season, "w") as tar:
        for path in paths[:10]:
            tar.add(path, path.name)
    before = score(str(season), trained.uri, out)
    with tarfile.open(season, "a") as tar:
        tar.add(paths[10], paths[10].name)
        data = b"cut off"
        info = tarfile.TarInfo("broken.jpg")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    after = score(str(season), trained.uri, out, update=True)
    assert (before.num_rows, after.num_rows) == (10, 12)
    stays = after.filter(pc.is_in(after["uri"], value_set=before["uri"].combine_chunks()))
    assert stays["predicted_at"].equals(before["predicted_at"])


def test_a_cluster_indexes_the_tars_of_a_store(
    s3: Storage, packed: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    season, whole = "s3://photos/on a cluster", (packed / "a.tar").read_bytes()
    for name, data in (("1", whole), ("2", whole[: len(whole) // 2]), ("3", whole)):
        s3.write(f"{season}/{name}.tar", data)
    # The driver itself would index archives as small as these.
    monkeypatch.setattr(monkeyray.storage.store, "RANGE_BYTES", 50_000)

    def listed(storage: Storage) -> tuple[pa.Table, Counter[str]]:
        skipped: Counter[str] = Counter()
        return pa.concat_tables(list_images(season, storage, skipped)), skipped

    alone, here = listed(s3), list[str]()
    read_index = Storage._read_index

    def read_here(self: Storage, archive: Entry) -> Index:
        here.append(archive.uri)
        return read_index(self, archive)

    monkeypatch.setattr(Storage, "_read_index", read_here)
    config = monkeyray.StoreConfig(quiet=True, s3_endpoint=s3.s3_endpoint)
    say = config.reporter().say
    with connected(None):
        with indexed_on_cluster(config, s3, say, None, False) as storage:
            assert listed(storage) == alone
            with pytest.raises(MissingError):
                storage.read_index(Entry(f"{season}/none.tar", None, None))
            with pytest.raises(MissingError):
                storage.read_index(Entry(f"{season}/none.tar", 10**6, "v"))
        rows = score(season, trained.uri, tmp_path / "out", s3.s3_endpoint)
    assert not here
    assert sorted(rows["uri"].to_pylist()) == sorted(alone[0]["uri"].to_pylist())
    assert Counter(rows["status"].to_pylist())["unreadable"] == 1
    on_disk = s3.stat(str(packed / "a.tar"))
    assert storage.read_index(on_disk).names
    assert here == [on_disk.uri]
