"""The plain GET: the same as boto3's if all is well, otherwise nothing."""

from __future__ import annotations

import socket
import threading
from typing import Any

import boto3
import pytest

from monkeyray.errors import FaultError
from monkeyray.storage.location import Location
from monkeyray.storage.s3 import S3Store
from monkeyray.storage.s3_get import PlainGet
from monkeyray.storage.store import Storage

TEN = Location.parse("s3://photos/plain/ten")
NAMES = ["a b.jpg", "100%.jpg", "x#1?.jpg", "plus+~.jpg", "日本.jpg", "deep/er/'q\".jpg"]


def _plain(endpoint: str, anonymous: bool = False) -> PlainGet:
    session = boto3.session.Session()
    client = session.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    return PlainGet(session, client, anonymous)


@pytest.mark.parametrize("name", NAMES)
def test_an_object_is_what_boto3_says(s3: Storage, name: str) -> None:
    assert s3.s3_endpoint
    etag = s3.write(f"s3://photos/plain/{name}", name.encode())
    got = _plain(s3.s3_endpoint).get("photos", f"plain/{name}", 100)
    assert got == (name.encode(), etag)


def test_failures_are_left_to_boto3(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3.s3_endpoint
    s3.write("s3://photos/plain/ten", b"0123456789")
    plain = _plain(s3.s3_endpoint)
    assert plain.get("photos", "plain/ten", 10) is not None
    assert plain.get("photos", "plain/ten", 9) is None
    assert plain.get("photos", "plain/nothing", None) is None
    assert plain.get("nowhere-at-all", "x", None) is None
    assert _plain("http://127.0.0.1:1").get("photos", "plain/ten", None) is None
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert _plain(s3.s3_endpoint).get("photos", "plain/ten", None) is None


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
    assert _plain(breaking, anonymous).get("photos", "x", None) is None


def test_without_credentials_boto3_is_asked(s3: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert s3.s3_endpoint
    assert _plain(s3.s3_endpoint).get("photos", "plain/ten", None) is None


class Answer:
    """An answer without an object."""

    def __init__(self, status: int, words: bytes) -> None:
        self.status_code = status
        self.content = words
        self.headers = {"content-length": str(len(words))}


@pytest.mark.parametrize(
    ("status", "words", "asked"),
    [
        (400, b"<Code>AuthorizationHeaderMalformed</Code>", 3),
        (301, b"<Code>PermanentRedirect</Code>", 3),
        (403, b"<Code>AccessDenied</Code>", 5),
        (404, b"<Code>NoSuchKey</Code>", 5),
        (503, b"<Code>SlowDown</Code>", 5),
    ],
)
def test_a_bucket_that_refuses_is_left_to_boto3(
    s3: Storage, monkeypatch: pytest.MonkeyPatch, status: int, words: bytes, asked: int
) -> None:
    s3.write("s3://photos/plain/ten", b"0123456789")
    store = S3Store(s3.s3_endpoint, anonymous=False, patience_seconds=1)
    urls = []

    def refuse(url: str) -> Answer:
        urls.append(url)
        return Answer(status, words)

    monkeypatch.setattr(store._plain, "_get", refuse)
    for _ in range(5):
        assert store.read(TEN).data == b"0123456789"
    assert urls == [f"{s3.s3_endpoint}/photos/plain/ten"] * asked


def test_a_role_that_cannot_be_renewed_is_a_fault(
    s3: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.credentials import Credentials
    from botocore.exceptions import ClientError

    store = S3Store(s3.s3_endpoint, anonymous=False, patience_seconds=1)

    def busy(credentials: Any) -> None:
        raise ClientError({"Error": {"Code": "Throttling"}}, "AssumeRole")

    monkeypatch.setattr(Credentials, "get_frozen_credentials", busy)
    assert store._plain.get("photos", "plain/ten", None) is None
    with pytest.raises(FaultError, match="Throttling"):
        store.read(TEN)
