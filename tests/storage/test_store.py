"""URIs and whole files on local disk and through fsspec."""

from __future__ import annotations

from pathlib import Path

import pytest

from monkeyray.errors import ConfigError, MissingError
from monkeyray.storage.location import join, normalise, scheme
from monkeyray.storage.store import Storage


def test_uris_have_one_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalise("photos/../x") == str(tmp_path / "x")
    assert normalise("file:///data/a%20b") == "/data/a b"
    assert normalise("/data/a%20b/") == "/data/a%20b"
    assert normalise("s3://bucket/a%20b #?+/") == "s3://bucket/a%20b #?+"
    assert scheme("gs://b/k") == "gs"


@pytest.mark.parametrize("uri", ["", " ", "s3:/bucket", "s3://", "file://host/x"])
def test_malformed_uris_are_refused(uri: str) -> None:
    with pytest.raises(ConfigError):
        normalise(uri)


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as error:
        normalise("s3://KEY:planted@bucket/x")
    assert "planted" not in str(error.value)


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


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(Exception, match="No space left"):
        Storage().write(str(tmp_path / "a.parquet"), b"x")
    assert list(tmp_path.iterdir()) == []


def test_other_stores_through_fsspec() -> None:
    storage = Storage()
    uri = join("memory://other", "a", "b c.bin")
    storage.write(uri, b"data")
    assert storage.read(uri).data == b"data"
    assert storage.exists(uri)
    assert [entry.uri for entry in storage.list("memory://other")] == [uri]
    storage.delete_tree("memory://other")
    assert not storage.exists(uri)
    with pytest.raises(MissingError):
        storage.read(uri)
