"""Which features are found again, and which images are looked at anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from monkeyray.model.backbones import weights_hash
from monkeyray.model.engine import Network
from monkeyray.scoring.features import FeatureCache, _find
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


def test_only_what_is_the_same_is_found() -> None:
    cache = cached(
        ("a", 1, "v1", "ok"), ("b", 1, "v1", "ok"), ("c", 1, "v1", "ok"),
        ("d", 1, "v1", "missing"), ("e", 1, "v1", "unreadable"), ("f", 1, "v1", "timeout"),
    )  # fmt: skip
    listed = images(
        ("e", 1, "v1"), ("a", 1, "v1"), ("b", 2, "v1"), ("c", 1, "v2"), ("d", 1, "v1"),
        ("f", 1, "v1"), ("new", 1, "v1"),
    )  # fmt: skip
    # A broken image stays broken; what was missing or timed out may be there by now.
    assert _find(listed, cache).to_pylist() == [4, 0, None, None, None, None, None]
    assert _find(listed, None).null_count == 7


def test_a_manifest_tells_no_versions_so_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    paths = [str(tmp_path / "a.jpg"), str(tmp_path / "gone.jpg"), "listed"]
    network = Network("mobilenet", {"0": np.zeros(1, np.float32)}, ("middle",))
    table = FeatureCache(str(tmp_path / "f"), STORAGE, network)._with_versions(
        images((paths[0], None, None), (paths[1], None, None), (paths[2], 7, "v7"))
    )
    version = STORAGE.read(paths[0]).version
    assert table["version"].to_pylist() == [version, "none", "v7"]
    assert table["size_bytes"].to_pylist() == [3, None, 7]


def test_a_weight_that_differs_makes_another_cache() -> None:
    one = {"a": np.zeros((2, 2), np.float32)}
    other = {"a": np.zeros((2, 2), np.float32)}
    other["a"][1, 1] = 1e-7
    assert weights_hash(one) != weights_hash(other)
    places = {
        FeatureCache("/x", STORAGE, Network(name, weights, views)).place
        for name in ("mobilenet", "inception_v3")
        for weights in (one, other)
        for views in (("middle",), ("whole",))
    }
    assert len(places) == 8
