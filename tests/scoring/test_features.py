"""Which features are found again, and which images are looked at anew."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from monkeyray.arrays import Array, Floats
from monkeyray.console import Reporter
from monkeyray.model.backbones import weights_hash
from monkeyray.model.engines.choice import EngineChoice
from monkeyray.model.network import Network
from monkeyray.runs.workers.batches import Batch
from monkeyray.runs.workers.decode_process import Work
from monkeyray.runs.workers.fetch import fetch
from monkeyray.runs.workers.worker import Job
from monkeyray.runs.workers.worker_count import WorkerCount
from monkeyray.scoring.features import FeatureCache, find_cached
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

STORAGE = Storage()


def images(*rows: tuple[str, int | None, str | None]) -> pa.Table:
    names = ("uri", "size_bytes", "version")
    types = (pa.string(), pa.int64(), pa.string())
    columns = zip(*rows, strict=True)
    return pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)], names=names
    )


def cached(*rows: tuple[str, int, str, str]) -> pa.Table:
    names = ("uri", "size_bytes", "etag_or_mtime", "status")
    return pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))


def test_cache_finds_only_identical_images() -> None:
    cache = cached(
        ("a", 1, "v1", "ok"), ("b", 1, "v1", "ok"), ("c", 1, "v1", "ok"),
        ("d", 1, "v1", "missing"), ("e", 1, "v1", "unreadable"), ("f", 1, "v1", "timeout"),
    )  # fmt: skip
    listed = images(
        ("e", 1, "v1"), ("a", 1, "v1"), ("b", 2, "v1"), ("c", 1, "v2"), ("d", 1, "v1"),
        ("f", 1, "v1"), ("new", 1, "v1"),
    )  # fmt: skip
    # A broken image stays broken; what was missing or timed out may be there by now.
    assert find_cached(listed, cache).to_pylist() == [4, 0, None, None, None, None, None]
    assert find_cached(listed, None).null_count == 7


def test_cache_depends_on_every_weight() -> None:
    one = {"a": np.zeros((2, 2), np.float32)}
    other = {"a": np.zeros((2, 2), np.float32)}
    other["a"][1, 1] = 1e-7
    assert weights_hash(one) != weights_hash(other)
    places = {
        FeatureCache(Location.of("/x"), STORAGE, Network(name, weights, views)).place
        for name in ("mobilenet", "inception_v3")
        for weights in (one, other)
        for views in (("middle",), ("whole",))
    }
    assert len(places) == 8


class InProcess:
    """A pool that makes shards here; `opened` counts its images."""

    opened = 0

    def count(self, option: str, asked: int | None, gpu: bool) -> WorkerCount:
        return WorkerCount(1)

    def run(self, job: Job, shards: list[int], *rest: Any, **named: Any) -> Counter[str]:
        assert isinstance(job.work, Work)
        work, engine = job.work, job.work.make_engine()
        for shard in shards:
            plan = job.run.plan.read(shard)
            fetched = [fetch(STORAGE, uri, None, work.limits) for uri in plan["uri"].to_pylist()]
            batch = Batch(plan, fetched)
            columns, pixels, good = batch.decode(work.size, work.limits, work.decode)
            table = work.mapper(batch, columns, good, *engine(pixels))
            job.run.publish(shard, plan, table)
            self.opened += plan.num_rows
        return Counter()


def test_an_image_is_opened_once_for_each_of_its_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine(pixels: Array) -> tuple[Floats, None]:
        return pixels.mean(axis=(2, 3), dtype=np.float32).reshape(-1, 2, 3), None

    monkeypatch.setattr(EngineChoice, "build", lambda choice, network: engine)
    network = Network("mobilenet", {"0": np.zeros(1, np.float32)}, ("middle", "middle-mirrored"))
    cache, pool = (
        FeatureCache(Location.of(str(tmp_path / "features")), STORAGE, network),
        InProcess(),
    )

    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def get(*names: str) -> Any:
        paths = [str(tmp_path / name) for name in names]
        listed = images(*((path, None, None) for path in paths))
        return cache.get(listed, pool, WorkerCount(1), Reporter(True), scratch)

    for name, colour in (("a.png", "red"), ("b.png", "lime")):
        Image.new("RGB", (300, 200), colour).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes(b"")
    first = get("a.png", "c.png")
    assert first.table["status"].to_pylist() == ["ok", "empty"]
    assert first.vectors.tolist() == [[[255, 0, 0]] * 2, [[0, 0, 0]] * 2]
    assert (first.found, pool.opened) == (0, 2)
    second = get("b.png", "c.png", "a.png")
    assert second.vectors[:, 0].tolist() == [[0, 255, 0], [0, 0, 0], [255, 0, 0]]
    assert (second.found, pool.opened) == (2, 3)
    Image.new("RGB", (301, 200), "blue").save(tmp_path / "a.png")
    third = get("a.png", "b.png")
    assert third.vectors[:, 0].tolist() == [[0, 0, 255], [0, 255, 0]]
    assert (third.found, pool.opened) == (1, 4)
    # Passes are ordered by number, so no two have the same one, even after one was deleted.
    folder = tmp_path / "features"
    shutil.rmtree(next(folder.glob("*/pass-00000-*")))
    assert get("b.png", "c.png").found == 1
    assert [path.name[:10] for path in sorted(folder.glob("*/pass-*"))] == [
        "pass-00001", "pass-00002", "pass-00003",
    ]  # fmt: skip


def test_features_in_a_bucket_are_copied_once(
    tmp_path: Path, s3: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network("mobilenet", {"0": np.zeros(1, np.float32)}, ("middle",))
    cache = FeatureCache(Location.of("s3://photos/features of a training"), s3, network)
    values = np.arange(6, dtype=np.float32)
    for number, names in enumerate((["a", "b"], ["c", "b"])):  # the second b is newer
        rows, width = [(values + number).tolist(), None], pa.list_(pa.float32(), 6)
        table = pa.table(
            {
                "uri": names, "etag_or_mtime": ["v1"] * 2, "status": ["ok", "empty"],
                "size_bytes": [1, 1], "sha256": ["0", None],
                "thumbnail": pa.array([bytes([number + 1]) * 1024, None], pa.binary(1024)),
                "embedding": pa.array(rows, width),
            }
        )  # fmt: skip
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        s3.write(cache.place / f"pass-{number:05d}" / "a.parquet", buffer.getvalue().to_pybytes())
    listed = images(("c", 1, "v1"), ("b", 1, "v1"), ("a", 1, "v1"))
    for _ in range(2):
        found = cache.get(listed, InProcess(), WorkerCount(1), Reporter(False), tmp_path)
        assert found.found == 3
        assert found.vectors[:, 0, 0].tolist() == [1, 0, 0]
        assert found.vectors[2, 0].tolist() == values.tolist()
        assert found.thumbnails[:, 5, 5].tolist() == [2, 0, 1]
        assert found.table["status"].to_pylist() == ["ok", "empty", "ok"]
        assert set(found.table.column_names) == {
            "uri", "etag_or_mtime", "status", "size_bytes", "sha256"
        }  # fmt: skip
    printed = capsys.readouterr().err
    assert printed.count("copying features from s3://photos/features of a training/mobilenet-") == 1
    assert f"GB on disk in {tmp_path}" in printed
