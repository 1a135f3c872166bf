"""Whole files on local disk and through fsspec."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from monkeyray.errors import ConflictError, MissingError, NoFileError, StorageError
from monkeyray.storage.backends.local import LocalStore
from monkeyray.storage.backends.protocol import ABSENT
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage


def test_local_files_are_whole_or_not_there(tmp_path: Path) -> None:
    storage = Storage()
    uri = str(tmp_path / "deep" / "a.parquet")
    storage.write(uri, b"one")
    first = storage.read(uri)
    storage.write(uri, b"two")
    assert first.data == b"one"
    assert storage.read(uri).data == b"two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.parquet"]
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    entries = {entry.uri: entry for entry in storage.list(str(tmp_path))}
    assert set(entries) == {uri, str(tmp_path / "link.jpg")}
    assert entries[uri].version == storage.read(uri).version
    assert entries[str(tmp_path / "link.jpg")].size_bytes is None
    storage.delete(uri)
    storage.delete(uri)
    with pytest.raises(MissingError):
        storage.read(uri)
    assert list(storage.list(str(tmp_path / "none"))) == []


def test_folders_and_special_files_are_not_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("camera")
        for place in (tmp_path / "camera", tmp_path):
            with pytest.raises(NoFileError, match="not a regular file"):
                Storage().read(str(place))
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with pytest.raises(MissingError, match=r"does not exist \(Too many levels"):
        Storage().read(str(tmp_path / "loop.jpg"))
    with pytest.raises(MissingError, match=r"does not exist \(File name too long"):
        Storage().read(str(tmp_path / ("a" * 300)))


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(Exception, match="No space left"):
        Storage().write(str(tmp_path / "a.parquet"), b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["memory://other", "ftp://host:21/other/deep", "ftp://host"])
def test_other_stores_through_fsspec(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if uri.startswith("ftp"):
        # As in fsspec's FTP and pyarrow's HDFS, a path lacks the host.
        files = MemoryFileSystem()
        monkeypatch.setattr(files, "store", {})
        monkeypatch.setattr("fsspec.url_to_fs", lambda uri: (files, f"/{Location.of(uri).path}"))
    storage = Storage()
    root = Location.parse(uri)
    place = root / "a" / "b c.bin"
    storage.write(place, b"data")
    assert storage.read(str(place)).data == b"data"
    assert storage.exists(place)
    assert [entry.uri for entry in storage.list(root)] == [str(place)]
    storage.delete_tree(root)
    assert not storage.exists(place)
    with pytest.raises(MissingError):
        storage.read(place)


class Inverting(LocalStore):
    """A store that takes conditions for their opposite."""

    def write(self, place: Location, data: bytes, replacing: str | None) -> str | None:
        if replacing == ABSENT and not self.exists(place):
            raise ConflictError("exists already")
        return super().write(place, data, None)


def test_a_store_proves_its_conditions(tmp_path: Path) -> None:
    for place in (str(tmp_path), "memory://proof"):
        Storage().check_conditions(place)
    with pytest.raises(StorageError, match="its store refused to create a new file"):
        Storage(_stores={"file": Inverting()}).check_conditions(str(tmp_path))
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_conditional_and_staged_writes(scheme: str, tmp_path: Path) -> None:
    storage = Storage()
    root = Location.parse("memory://conditions" if scheme == "memory" else str(tmp_path))
    place = root / "deep" / "a.json"
    storage.create(place, b"one")
    with pytest.raises(ConflictError, match="exists already"):
        storage.create(place, b"two")
    with pytest.raises(ConflictError, match="was changed"):
        storage.replace(place, b"two", "another version")
    assert storage.read(place).data == b"one"
    if scheme == "file":
        storage.replace(place, b"two", storage.stat(place).version)
        assert storage.read(place).data == b"two"
    with storage.writing(place) as file:
        file.write(b"three")
    with contextlib.suppress(RuntimeError), storage.writing(place) as file:
        file.write(b"half")
        raise RuntimeError
    assert storage.read(place).data == b"three"
    assert [entry.uri for entry in storage.list(place)] == [str(place)]
    assert [entry.uri for entry in storage.list(root)] == [str(place)]
