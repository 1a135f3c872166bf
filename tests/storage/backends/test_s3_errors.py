"""What the codes of S3 servers mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore import exceptions as aws

from monkeyray.errors import (
    ArchivedError,
    FaultError,
    ForbiddenError,
    MissingError,
    StorageError,
)
from monkeyray.images.decode import Limits
from monkeyray.runs.workers.fetch import fetch
from monkeyray.storage.backends.protocol import Blob
from monkeyray.storage.backends.s3_errors import s3_errors
from monkeyray.storage.backends.s3_get import PlainGet
from monkeyray.storage.location import Location
from monkeyray.storage.store import Storage

PLACE = Location.parse("s3://photos/a.jpg")


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("NoSuchKey", 404, MissingError, "does not exist$"),
        ("KeyTooLongError", 400, MissingError, "longer than S3 allows"),
        ("InvalidObjectState", 403, ArchivedError, "is archived.*: restore it"),
        ("AccessDenied", 403, ForbiddenError, "check the permissions"),
        ("AllAccessDisabled", 403, ForbiddenError, "ask the owner of the bucket"),
        ("AuthorizationHeaderMalformed", 400, StorageError, "set AWS_REGION"),
        ("301", 301, StorageError, "set AWS_REGION"),
        ("SignatureDoesNotMatch", 403, StorageError, "the credentials are wrong"),
        ("ExpiredToken", 400, StorageError, "have expired"),
        ("RequestTimeTooSkewed", 403, StorageError, "set the clock"),
        ("XMinioStorageFull", 507, StorageError, "the store is full"),
        ("Unheard", 507, StorageError, "the store is full"),
        ("Unheard", 501, StorageError, "no conditional writes"),
        ("Unheard", 503, FaultError, "overloaded or down"),
        ("ConditionalRequestConflict", 409, FaultError, "another program writes there"),
        ("Unheard", 400, StorageError, "answers Unheard.*look the code up"),
    ],
)
def test_each_error_code_says_what_to_do(
    code: str, status: int, kind: type[StorageError], words: str
) -> None:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(StorageError, match=words) as caught, s3_errors("AWS", PLACE):
        raise aws.ClientError(response, "GetObject")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (aws.NoCredentialsError(), StorageError, "no AWS credentials"),
        (aws.UnauthorizedSSOTokenError(), StorageError, "aws sso login"),
        (aws.CredentialRetrievalError(provider="p", error_msg="x"), StorageError, "log in again"),
        (aws.SSLError(endpoint_url="https://h", error="x"), FaultError, "AWS_CA_BUNDLE"),
        (aws.EndpointConnectionError(endpoint_url="https://h"), FaultError, "cannot reach AWS"),
    ],
)
def test_errors_before_an_answer_say_what_to_do(
    error: Exception, kind: type[StorageError], words: str
) -> None:
    with pytest.raises(StorageError, match=words) as caught, s3_errors("AWS", PLACE):
        raise error
    assert type(caught.value) is kind


@pytest.fixture
def glacier() -> Iterator[str]:
    """A server that has archived everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<Error><Code>InvalidObjectState</Code></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_archived_objects_are_rows(glacier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    get = PlainGet.get

    def noted(plain: PlainGet, place: Location, max_bytes: int | None) -> Blob | None:
        asked.append(place)
        return get(plain, place, max_bytes)

    monkeypatch.setattr(PlainGet, "get", noted)
    storage = Storage(s3_endpoint=glacier, anonymous=(Location.parse("s3://photos"),))
    for number in range(5):
        found = fetch(storage, f"s3://photos/{number}.jpg", None, Limits())
        assert (found.status, found.error) == (
            "archived",
            "archived in the store: restore it first",
        )
    assert len(asked) == 5  # and the bucket is not left to boto3
