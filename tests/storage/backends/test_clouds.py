"""Azure Blob Storage (Azurite) and Google Cloud Storage (a fake): the same promises as S3."""

from __future__ import annotations

import contextlib
import io
import pickle
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.storage.blob import ContainerClient
from google.auth.exceptions import DefaultCredentialsError

from monkeyray.errors import (
    ConfigError,
    ConflictError,
    FaultError,
    ForbiddenError,
    KeyNameError,
    MissingError,
    StorageError,
    TooLargeError,
)
from monkeyray.images.decode import Limits
from monkeyray.images.listing import list_images
from monkeyray.options import StoreConfig
from monkeyray.runs.workers.fetch import fetch
from monkeyray.storage.backends import obstore_limits
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage
from tests.support.azurite import ENVIRONMENT
from tests.support.faulty import FaultyProxy
from tests.support.gcs import FakeGoogle, start_google

NAMES = ["a b.jpg", "100%.jpg", "x#1?.jpg", "plus+~.jpg", "日本.jpg", "deep/er/'q\".jpg"]


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGoogle]:
    with start_google() as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture(params=["az", "gs"])
def root(request: pytest.FixtureRequest) -> Location:
    """A bucket of each cloud."""
    request.getfixturevalue("azure" if request.param == "az" else "google")
    return Location.parse(f"{request.param}://photos/{request.node.name}")


STORAGE = Storage(patience_seconds=2)


@pytest.fixture
def storage() -> Storage:
    return Storage(patience_seconds=2)


def test_files_with_size_and_version(
    root: Location, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {name: storage.write(root / name, name.encode()) for name in NAMES}
    listed = {entry.uri: entry for entry in storage.list(root)}
    assert set(listed) == {str(root / name) for name in NAMES}
    for name in NAMES:
        blob, entry = storage.read(root / name, 100), listed[str(root / name)]
        assert blob.data == name.encode()
        assert blob.version == entry.version == versions[name]
        assert entry.size_bytes == len(blob.data)
        with monkeypatch.context() as patched:
            patched.delattr("obstore.get")  # which would begin to send the file
            assert storage.stat(root / name) == entry
        assert list(storage.list(root / name)) == [entry]
    with pytest.raises(TooLargeError, match="has 7 bytes, the limit is 6"):
        storage.read(root / "a b.jpg", 6)
    assert storage.exists(root / NAMES[0])
    storage.delete(root / NAMES[0])
    storage.delete(root / NAMES[0])
    assert not storage.exists(root / NAMES[0])
    with pytest.raises(MissingError):
        storage.read(root / NAMES[0])
    storage.delete_tree(root)
    assert list(storage.list(root)) == []


def test_conditional_and_staged_writes(root: Location, storage: Storage) -> None:
    place = root / "a.json"
    first = storage.create(place, b"one")
    with pytest.raises(ConflictError):
        storage.create(place, b"two")
    second = storage.replace(place, b"two", first)
    for stale in (first, "1"):
        with pytest.raises(ConflictError):
            storage.replace(place, b"three", stale)
    with pytest.raises(ConflictError):
        storage.replace(root / "none", b"three", second)
    assert (storage.read(place).data, storage.read(place).version) == (b"two", second)
    with storage.writing(place) as file:
        file.write(b"four")
    with contextlib.suppress(RuntimeError), storage.writing(place) as file:
        file.write(b"half")
        raise RuntimeError
    assert storage.read(place).data == b"four"
    storage.check_conditions(root / "proof")
    assert [entry.uri for entry in storage.list(root)] == [str(place)]


def test_ranges_of_a_file(root: Location, storage: Storage) -> None:
    values = np.random.default_rng(0).random((2, 50_000))
    table = pa.table({"a": values[0], "b": values[1]})
    pq.write_table(table, sink := io.BytesIO())
    storage.write(root / "t.parquet", sink.getvalue())
    with storage.open(root / "t.parquet") as file:
        assert pq.read_table(file, columns=["a"]).equals(table.select(["a"]))
        file.seek(100)
        storage.write(root / "t.parquet", b"another version")
        with pytest.raises((ConflictError, StorageError)):
            file.read(100)
    storage.write(root / "empty", b"")
    assert storage.open(root / "empty").read() == b""


def put_raw(root: Location, name: str, request: pytest.FixtureRequest) -> None:
    """Write an object with a key that obstore cannot express."""
    key = f"{root.path}/{name}"
    if root.scheme == "gs":
        request.getfixturevalue("google").objects[key] = (b"odd", 9)
    else:
        url, secret = (ENVIRONMENT[f"AZURE_STORAGE_{n}"] for n in ("ENDPOINT", "ACCOUNT_KEY"))
        ContainerClient(url, "photos", secret).upload_blob(key, b"odd")


def test_unreadable_key_is_an_error_row_and_hides_no_other(
    root: Location, storage: Storage, request: pytest.FixtureRequest
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        storage.write(root / name, b"x")
    put_raw(root, "b//x.jpg", request)
    put_raw(root, "folder/", request)
    (table,) = list_images(root, storage, Counter())
    uris = table["uri"].to_pylist()
    assert uris == [str(root / n) for n in ("a.jpg", "b.jpg", "b//x.jpg", "c.jpg", "d.jpg")]
    found = fetch(storage, uris[2], None, Limits())
    assert (found.status, found.error) == (
        "unsupported",
        "its key, with an empty segment, . or .., or a control character, cannot be read",
    )
    with pytest.raises(KeyNameError):
        storage.write(uris[2], b"")


def test_errors_say_what_is_wrong(root: Location, storage: Storage) -> None:
    nowhere = Location.parse(f"{root.scheme}://nowhere/a/b")
    for call in (storage.read, storage.exists, storage.check_reachable, storage.check_conditions):
        with pytest.raises(StorageError, match="'nowhere' does not exist at") as error:
            call(nowhere)
        assert not isinstance(error.value, MissingError)
    with pytest.raises(StorageError, match="'nowhere' does not exist at"):
        list(storage.list(nowhere))
    with pytest.raises(ConfigError, match="is a bucket, not a file"):
        storage.read(f"{root.scheme}://photos")


def test_conditional_writes_survive_lost_responses(google: FakeGoogle, storage: Storage) -> None:
    place = "gs://photos/promise"
    google.lost = 1
    first = storage.create(place, b"one")
    google.lost = 1
    second = storage.replace(place, b"two", first)
    google.lost = 1
    with pytest.raises(ConflictError):
        storage.replace(place, b"three", first)
    assert (storage.read(place).data, storage.read(place).version) == (b"two", second)
    google.lost = 0
    google.ignoring = True
    with pytest.raises(StorageError, match="its store created a file that existed"):
        storage.check_conditions("gs://photos")


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, StorageError, "the credentials are wrong or have expired"),
        (403, ForbiddenError, "check the permissions"),
        (429, FaultError, "overloaded or down"),
        (503, FaultError, "overloaded or down"),
        (400, StorageError, r"\(400\): look the code up"),
    ],
)
def test_responses_are_distinguished(
    google: FakeGoogle, storage: Storage, status: int, kind: type[StorageError], words: str
) -> None:
    google.refusing = status
    with pytest.raises(StorageError, match=words) as read:
        storage.read("gs://photos/a")
    with pytest.raises(StorageError, match=words) as listed:
        list(storage.list("gs://photos"))
    assert type(read.value) is type(listed.value) is kind


def test_missing_credentials_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def azure(*_: object) -> None:
        raise ClientAuthenticationError("a page\nof text")

    def google(**_: object) -> None:
        raise DefaultCredentialsError("see https://cloud.google.com")

    monkeypatch.setattr("azure.identity.DefaultAzureCredential.get_token", azure)
    monkeypatch.setattr("google.auth.default", google)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    for uri in ("az://photos/a", "gs://photos/a"):
        with pytest.raises(StorageError, match=r"no credentials for .*: log in \(az") as error:
            Storage(patience_seconds=1).read(uri)
        assert "\n" not in str(error.value)


def test_an_unreachable_server_is_named(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1/devstoreaccount1")
    for uri in ("gs://photos/a", "az://photos/a"):
        with pytest.raises(FaultError, match=f"cannot reach .* for {uri}"):
            storage.read(uri)
        with pytest.raises(FaultError, match="cannot reach"):
            list(storage.list(uri))


def test_a_fork_fails_with_a_message_instead_of_hanging(
    root: Location, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write(root / "a", b"x")
    monkeypatch.setattr(obstore_limits, "_threads_of", -1)
    with pytest.raises(StorageError, match="from a fork of a process"):
        storage.read(root / "a")


# -- Azure alone -------------------------------------------------------------------------------


@pytest.mark.usefixtures("azure")
def test_azure_through_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    url = ENVIRONMENT["AZURE_STORAGE_ENDPOINT"].removesuffix("/devstoreaccount1")
    with FaultyProxy(url) as proxy:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{proxy.url}/devstoreaccount1")
        storage = Storage(patience_seconds=60)
        proxy.disturb(0.4)
        folder = "az://photos/faults"
        for number in range(10):
            storage.create(f"{folder}/{number % 3}/{number}", bytes(number))
        assert [e.size_bytes for e in storage.list(folder)] == [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
        first = storage.read(f"{folder}/0/9").version
        second = storage.replace(f"{folder}/0/9", b"again", first)
        with pytest.raises(ConflictError):
            storage.replace(f"{folder}/0/9", b"too late", first)
        assert storage.read(f"{folder}/0/9").version == second
        assert proxy.disturbed.total() >= 5


@pytest.mark.usefixtures("azure")
def test_ray_train_writes_to_azure() -> None:
    filesystem, path = STORAGE.arrow("az://photos/arrow/a")
    with pickle.loads(pickle.dumps(filesystem)).open_output_stream(path) as stream:
        stream.write(b"data")
    assert STORAGE.read("az://photos/arrow/a").data == b"data"


@pytest.mark.usefixtures("azure")
def test_accounts_of_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    STORAGE.write("az://public/a", b"data")
    STORAGE.write("az://photos/a", b"data")
    name = "abfs://photos@devstoreaccount1.dfs.core.windows.net/a"
    assert STORAGE.read(name) == STORAGE.read("az://photos/a")
    assert [entry.uri for entry in STORAGE.list(name)] == [name]
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
    with pytest.raises(StorageError, match="the credentials are wrong"):
        Storage(patience_seconds=2).read(name)
    with pytest.raises(StorageError, match="the credentials are wrong"):
        list(Storage(patience_seconds=2).list("az://photos/b"))
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    public = StoreConfig(anonymous="az://public").storage()
    assert public.read("az://public/a").data == b"data"
    assert [entry.uri for entry in public.list("az://public")] == ["az://public/a"]
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT")
    with pytest.raises(ConfigError, match="no account for the container 'photos': set AZURE_"):
        Storage().read("az://photos/a")
