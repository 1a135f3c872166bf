"""The GET through obstore: the same as boto3's if all is well, otherwise nothing."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import boto3
import obstore
import pytest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.utils import S3RegionRedirectorv2
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from monkeyray.errors import FaultError, MissingError, TooLargeError
from monkeyray.storage.backends import obstore_limits, s3_get
from monkeyray.storage.backends.obstore_limits import is_expressible
from monkeyray.storage.backends.s3 import S3Access, S3Store
from monkeyray.storage.backends.s3_get import PlainGet
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

TEN = Location.parse("s3://photos/plain/ten")
NAMES = ["a b.jpg", "100%.jpg", "x#1?.jpg", "plus+~.jpg", "日本.jpg", "deep/er/'q\".jpg"]
KEYS = st.lists(
    st.one_of(st.text(max_size=4), st.sampled_from(["", ".", "..", "a", "%2F", "%2e", "\\", "\n"])),
    max_size=4,
).map("/".join)


def _plain(endpoint: str, anonymous: bool = False) -> PlainGet:
    session = boto3.session.Session()
    client = session.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    return PlainGet(session, client, anonymous)


@pytest.mark.parametrize("name", NAMES)
def test_an_object_is_what_boto3_says(s3: Storage, name: str) -> None:
    assert s3.s3_endpoint
    place = Location.of(f"s3://photos/plain/{name}")
    etag = s3.write(place, name.encode())
    plain = _plain(s3.s3_endpoint)
    assert plain.serves(place)
    got = plain.get(place, 100)
    assert got is not None
    assert (got.data, got.version) == (name.encode(), etag)


@pytest.mark.parametrize(
    ("bucket", "region", "url"),
    [
        ("photos", "us-east-1", "https://photos.s3.amazonaws.com"),
        ("photos", "eu-central-1", "https://photos.s3.amazonaws.com"),
        # No certificate of a wildcard covers a bucket with dots.
        (
            "us-west-2.open.data",
            "us-west-2",
            "https://s3.us-west-2.amazonaws.com/us-west-2.open.data",
        ),
        ("us-west-2.open.data", "us-east-1", "https://s3.amazonaws.com/us-west-2.open.data"),
    ],
)
def test_amazons_own_urls_are_those_of_boto3(bucket: str, region: str, url: str) -> None:
    client = boto3.session.Session().client("s3", region_name=region)
    config = PlainGet(boto3.session.Session(), client, True)._open(bucket).config
    assert (config.get("endpoint_url_s3"), config.get("region")) == (url, region)


@pytest.mark.parametrize("bucket", ["photos", "eu.west.photos"])
def test_redirected_region_is_used(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    start = S3RegionRedirectorv2.__init__

    def noted(redirector: Any, *arguments: Any, **options: Any) -> None:
        start(redirector, *arguments, **options)
        made.append(redirector)

    monkeypatch.setattr(S3RegionRedirectorv2, "__init__", noted)
    session = boto3.session.Session()
    plain = PlainGet(session, session.client("s3", region_name="us-east-1"), False)
    assert plain._store(bucket).config.get("region") == "us-east-1"
    made[0]._cache[bucket] = "eu-west-3"
    for _ in range(3):
        plain.failed(bucket)
    assert plain._store(bucket).config.get("region") == "eu-west-3"


# -- which keys --------------------------------------------------------------------------------


@given(KEYS)
def test_keys_are_expressible_where_obstore_keeps_them(key: str) -> None:
    store = MemoryStore()
    try:
        obstore.put(store, key, b"")
        (kept,) = (item["path"] for batch in obstore.list(store) for item in batch)
    except (ValueError, UnicodeEncodeError):
        kept = None
    assert is_expressible(key) == (kept == key and key != "")


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """A server whose objects are the paths that were asked for."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(path)))
            self.send_header("ETag", '"x"')
            self.end_headers()
            self.wfile.write(path)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def echoing(echo: str) -> PlainGet:
    return _plain(echo)


@given(KEYS.filter(is_expressible))
def test_the_path_that_is_asked_for_is_the_key(echoing: PlainGet, key: str) -> None:
    got = echoing.get(Location("s3", "photos", key), None)
    assert got is not None
    assert unquote(got.data.decode()) == f"/photos/{key}"
    assert "?" not in got.data.decode()


@pytest.mark.parametrize("key", ["/a", "a/", "a//b", "a/../b", "a\x01b"])
def test_keys_that_obstore_cannot_express_are_read(echo: str, key: str) -> None:
    store = S3Store(S3Access(echo), patience_seconds=1)
    assert unquote(store.read(Location("s3", "photos", key)).data.decode()) == f"/photos/{key}"


# -- what it leaves to boto3 -------------------------------------------------------------------


def test_failures_are_left_to_boto3(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3.s3_endpoint
    s3.write(TEN, b"0123456789")
    plain = _plain(s3.s3_endpoint)
    assert plain.get(TEN, 10) is not None
    assert plain.get(Location.of("s3://nowhere-at-all/x"), None) is None
    assert _plain("http://127.0.0.1:1").get(TEN, None) is None
    with pytest.raises(TooLargeError, match="has 10 bytes, the limit is 9"):
        plain.get(TEN, 9)
    with pytest.raises(MissingError, match="s3://photos/plain/nothing does not exist"):
        plain.get(Location.of("s3://photos/plain/nothing"), None)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert _plain(s3.s3_endpoint).get(TEN, None) is None


@pytest.fixture
def breaking() -> Any:
    """A server whose answers end before as many bytes as they announce."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.recv(65536)
                client.sendall(
                    b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: "x"\r\n\r\nnot a hundred'
                )

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


@pytest.mark.parametrize("anonymous", [False, True])
def test_half_an_object_is_a_failure(breaking: str, anonymous: bool) -> None:
    assert _plain(breaking, anonymous).get(TEN, None) is None


def test_without_credentials_boto3_is_asked(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert s3.s3_endpoint
    assert not _plain(s3.s3_endpoint).serves(TEN)


def test_bucket_that_obstore_cannot_read_is_left_to_boto3(
    s3: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.write(TEN, b"0123456789")
    store = S3Store(S3Access(s3.s3_endpoint), patience_seconds=1)
    asked = []

    def refuse(place: Location, max_bytes: int | None) -> None:
        asked.append(place)

    monkeypatch.setattr(s3_get, "_SERVED_ALONE", 4)
    with monkeypatch.context() as patch:
        patch.setattr(store._plain, "get", refuse)
        for count in (1, 2, 3, 3, 3, 3, 3, 4, 4):
            assert store.read(TEN).data == b"0123456789"
            assert len(asked) == count
    # Once it can be read again, three failures in sequence are needed.
    for _ in range(3):
        store.read(TEN)
    assert store._plain.serves(TEN)
    store.read(TEN)
    assert not store._plain._failures


def test_failed_role_renewal_is_a_fault(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(S3Access(s3.s3_endpoint), patience_seconds=1)

    def busy(credentials: Any) -> None:
        raise ClientError({"Error": {"Code": "Throttling"}}, "AssumeRole")

    monkeypatch.setattr(Credentials, "get_frozen_credentials", busy)
    assert store._plain.get(TEN, None) is None
    with pytest.raises(FaultError, match="Throttling"):
        store.read(TEN)


def test_renewed_credentials_are_used(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3.s3_endpoint
    s3.write(TEN, b"0123456789")
    plain = _plain(s3.s3_endpoint)
    given = plain._give_credentials()
    assert plain._credentials is not None
    monkeypatch.setattr(plain._credentials, "secret_key", "expired")
    assert plain.get(TEN, None) is None
    monkeypatch.setattr(plain._credentials, "secret_key", given["secret_access_key"])
    # obstore keeps what it was given for a tenth of a second.
    for _ in range(100):
        if plain.get(TEN, None) is not None:
            return
        time.sleep(0.05)
    pytest.fail("it keeps the credentials that were replaced")


@pytest.mark.parametrize("excluded", ["", "127.0.0.1"])
def test_proxies_are_those_of_boto3(
    s3: Storage, echo: str, excluded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.s3_endpoint
    s3.write(TEN, b"0123456789")
    monkeypatch.setenv("http_proxy", echo)
    monkeypatch.setenv("no_proxy", excluded)
    got = _plain(s3.s3_endpoint).get(TEN, None)
    assert got is not None
    # A proxy is asked for the whole URL.
    expected = "0123456789" if excluded else f"{s3.s3_endpoint}/photos/plain/ten"
    assert got.data.decode() == expected


def test_the_environment_of_obstore_changes_nothing(
    s3: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.s3_endpoint
    s3.write(TEN, b"0123456789")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_BUCKET", "nowhere")
    assert _plain(s3.s3_endpoint).get(TEN, None) is not None


def _read_ten(endpoint: str, queue: Any) -> None:
    queue.put(Storage(s3_endpoint=endpoint).read(TEN).data)


def test_a_fork_of_a_process_that_has_read_reads_too(s3: Storage) -> None:
    s3.write(TEN, b"0123456789")
    assert s3.read(TEN).data == b"0123456789"
    assert obstore_limits._threads_of == os.getpid()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_read_ten, args=(s3.s3_endpoint, queue))
    child.start()
    assert queue.get(timeout=60) == b"0123456789"
    child.join()
