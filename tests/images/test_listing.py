"""Folders and prefixes: which files are images."""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

import monkeyray.storage.store
from monkeyray.errors import InputError, MissingError
from monkeyray.images.listing import PLAN_SCHEMA, VIDEOS, count_videos, list_images, with_versions
from monkeyray.labels.listing import list_labelled
from monkeyray.storage.archives import Index, broken_reason
from monkeyray.storage.backends.protocol import Entry
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.files import touch

STORAGE = Storage()


def test_names_that_are_not_utf8_are_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "n0"
    folder.mkdir()
    path = os.fsencode(folder) + b"/caf\xe9 100%.jpg"
    with open(path, "wb") as file:
        file.write(b"x")
    (table,) = list_images(str(tmp_path), STORAGE, Counter())
    (uri,) = table["uri"].to_pylist()
    assert uri == f"file://{folder}/caf%E9%20100%25.jpg"
    assert STORAGE.read(uri).data == b"x"
    assert list_labelled(str(tmp_path), STORAGE, Counter())["label"].to_pylist() == ["n0"]


def test_globs_choose_images(tmp_path: Path) -> None:
    touch(
        tmp_path, "a/1.jpg", "a/2.JPG", "a/b/100%_x.jpg", "a/b/100y_x.jpg", "c/[1].jpg", "c/d.png"
    )

    def chosen(include: list[str], exclude: list[str]) -> set[str]:
        skipped: Counter[str] = Counter()
        tables = list(list_images(str(tmp_path), STORAGE, skipped, include, exclude))
        uris = {uri for table in tables for uri in table["uri"].to_pylist()}
        assert skipped["excluded"] == 6 - len(uris)
        return {uri.removeprefix(f"{tmp_path}/") for uri in uris}

    assert chosen(["*.jpg"], ["a/*"]) == {"c/[1].jpg"}
    assert chosen(["a/*"], []) == {"a/1.jpg", "a/2.JPG", "a/b/100%_x.jpg", "a/b/100y_x.jpg"}
    assert chosen(["*100%_x*", "c/?.png"], []) == {"a/b/100%_x.jpg", "c/d.png"}
    assert chosen([], ["*"]) == set()


def test_markers_of_hadoop_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "site_$folder$", "site/fox_$folder$", "site/fox/1.jpg")
    skipped: Counter[str] = Counter()
    (table,) = list_images(str(tmp_path), STORAGE, skipped)
    assert table["uri"].to_pylist() == [f"{tmp_path}/site/fox/1.jpg"]
    assert skipped == {"hidden": 2}


def test_globs_are_compared_in_either_unicode_form(tmp_path: Path) -> None:
    touch(tmp_path, "E\u0301land/1.jpg", "fox/1.jpg")
    (table,) = list_images(str(tmp_path), STORAGE, Counter(), ["\u00c9land/*"])
    assert table["uri"].to_pylist() == [f"{tmp_path}/E\u0301land/1.jpg"]


def test_names_are_kept_as_they_are(tmp_path: Path) -> None:
    names = ["a b.jpg", "100%.jpg", "x#1?.jpg", "p+q.jpg", 'it\'s "q".jpg', "l\nf.jpg", "ü日.jpg"]
    touch(tmp_path, *names)
    (table,) = list_images(str(tmp_path), STORAGE, Counter())
    assert set(table["uri"].to_pylist()) == {str(tmp_path / name) for name in names}


def test_videos_are_counted_by_name_and_listed(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "mp4", "2.mp4.jpg", "3.MOV", *(f"{e[1:]}{e}" for e in VIDEOS))
    tables = list(list_images(str(tmp_path), STORAGE, Counter()))
    assert sum(table.num_rows for table in tables) == 4 + len(VIDEOS)
    assert count_videos(tables) == 1 + len(VIDEOS)
    assert count_videos([]) == 0


def test_versions_that_a_manifest_lacks_are_looked_up(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    file = str(tmp_path / "a.jpg")
    columns = {
        "uri": [file, str(tmp_path / "gone.jpg"), "listed"],
        "size_bytes": [None, None, 7],
        "version": [None, None, "v7"],
    }
    table = with_versions(pa.table(columns, schema=PLAN_SCHEMA), Storage())
    version = Storage().read(file).version
    assert table["version"].to_pylist() == [version, "none", "v7"]
    assert table["size_bytes"].to_pylist() == [3, None, 7]


def test_members_of_archives_are_images_beside_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain.jpg").write_bytes(b"plain")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for name in ("s1/1.jpg", "s1/1.cls", "s1/1.json", "s2/2.jpg", ".hidden/3.jpg"):
            archive.add(tmp_path / "plain.jpg", name)
    (tmp_path / "c.zip").write_bytes(b"not a zip archive at all")
    skipped: Counter[str] = Counter()
    table = pa.concat_tables(list_images(str(tmp_path), Storage(), skipped))
    names = [uri.removeprefix(f"{tmp_path}/") for uri in table["uri"].to_pylist()]
    assert names == ["b.tar#s1/1.jpg", "b.tar#s2/2.jpg", "c.zip", "plain.jpg"]
    assert (skipped["side-car"], skipped["hidden"]) == (2, 1)
    assert broken_reason(table["version"][2].as_py()) is not None
    assert table["size_bytes"].to_pylist() == [5, 5, 24, 5]

    only = list_images(str(tmp_path), Storage(), Counter(), include=["b.tar/s2/*"])
    assert pa.concat_tables(only)["uri"].to_pylist() == [f"{tmp_path}/b.tar#s2/2.jpg"]
    inside = list_images(str(tmp_path / "b.tar"), Storage(), Counter(), exclude=["s1/*"])
    assert pa.concat_tables(inside)["uri"].to_pylist() == [f"{tmp_path}/b.tar#s2/2.jpg"]

    # A manifest that names members has their sizes and places too.
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("uri\nb.tar#s2/2.jpg\nplain.jpg\nb.tar#gone.jpg\n")
    named = pa.concat_tables(list_images(str(manifest), Storage(), Counter()))
    assert named["size_bytes"].to_pylist() == [5, None, None]
    assert named["version"][0] == table["version"][1]
    # Workers do not search the archive for a member that it lacks.
    with monkeypatch.context() as patch:
        patch.delattr(Storage, "index")
        with pytest.raises(MissingError):
            Storage().read(named["uri"][2].as_py(), version=named["version"][2].as_py())


def test_each_archive_is_indexed_once_however_a_manifest_is_ordered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.jpg").write_bytes(b"data")
    for number in range(20):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for name in range(50):
                archive.add(tmp_path / "1.jpg", f"{name}.jpg")
    rows = [f"{tmp_path}/{number}.tar#{name}.jpg" for name in range(50) for number in range(20)]
    (tmp_path / "manifest.csv").write_text("\n".join(["uri", *rows * 10]))
    read_index, read = Storage.read_index, Counter[str]()

    def counted(self: Storage, archive: Entry) -> Index:
        read[archive.uri] += 1
        return read_index(self, archive)

    monkeypatch.setattr(Storage, "read_index", counted)
    table = pa.concat_tables(list_images(str(tmp_path / "manifest.csv"), Storage(), Counter()))
    assert table["uri"].to_pylist() == rows * 10
    assert table["size_bytes"].unique().to_pylist() == [4]
    assert table["version"].null_count == 0
    assert set(read.values()) == {1}
    assert len(read) == 20
    # Each part of a long manifest may name all archives.
    monkeypatch.setattr(monkeyray.storage.store, "_KEPT_MEMBERS", 100)
    storage, archives = Storage(), [*map(Location.of, read)]
    for _ in range(3):
        storage.indexes(archives)
    assert set(read.values()) == {2}
    storage.indexes(archives[:1])
    storage.indexes(archives[1:])
    assert set(read.values()) == {2, 3}


def test_archives_that_can_only_be_read_from_their_start_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.tar\.gz is an archive .* unpack it, or pack it as"):
        list(list_images(str(tmp_path / "a.tar.gz"), Storage(), Counter()))


def test_an_index_of_wids_lists_archives(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"data")
    for name in ("b.tar", "a.tar", "c.tar"):
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(tmp_path / "1.jpg", "1.jpg")
    urls = ["b.tar", f"file://{tmp_path}/a.tar", "gone.tar"]
    shards = [{"url": url, "nsamples": 1, "filesize": 10240, "md5sum": ""} for url in urls]
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    path = tmp_path / "train.json"
    path.write_text(json.dumps(index))
    table = pa.concat_tables(list_images(str(path), Storage(), Counter()))
    names = [uri.removeprefix(f"{tmp_path}/") for uri in table["uri"].to_pylist()]
    assert names == ["b.tar#1.jpg", "a.tar#1.jpg", "gone.tar"]
    assert table["size_bytes"].to_pylist() == [4, 4, None]
    only = pa.concat_tables(list_images(str(path), Storage(), Counter(), ["a.tar/*"]))
    assert only.num_rows == 1
    for other in ('{"images": []}', '{"shardlist": 3}', "[]"):
        path.write_text(other)
        with pytest.raises(InputError, match="JSON"):
            list(list_images(str(path), Storage(), Counter()))
