"""S3 through boto3, because GET's own error code tells a missing object from a fault."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NoReturn

from monkeyray.errors import (
    ConfigError,
    ConflictError,
    FaultError,
    ForbiddenError,
    MissingError,
    ObjectError,
    StorageError,
    TooLargeError,
)
from monkeyray.redact import masked
from monkeyray.storage.location import bucket_and_key
from monkeyray.storage.retries import with_retries
from monkeyray.storage.s3_get import PlainGet

#: Prefixes that are listed at once, and pages of 1,000 names that each may be ahead.
_LISTERS = 16
_PAGES_AHEAD = 4
_TOGETHER = 256

_WRONG = (
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "AuthorizationHeaderMalformed",
)
_EXPIRED = ("ExpiredToken", "RequestExpired", "ExpiredTokenException", "TokenRefreshRequired")
_FORBIDDEN = ("AccessDenied", "403", "AllAccessDisabled", "InvalidObjectState", "Forbidden")
_MISSING = ("NoSuchKey", "404", "KeyTooLongError", "NoSuchVersion")
_CONFLICT = ("PreconditionFailed", "412")
_BUSY = (
    "SlowDown", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException",
    "RequestLimitExceeded", "RequestTimeout", "TooManyRequests", "OperationAborted",
    "ConditionalRequestConflict",
)  # fmt: skip


def endpoint_of(given: str | None) -> str | None:
    """The S3 server: the given URL, or that of the environment, or None for AWS.

    Raises ConfigError where that of the environment carries a password, which messages would tell.
    """
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    name = next((name for name in names if os.environ.get(name)), None)
    if given or name is None:
        return given
    if masked(os.environ[name]) != os.environ[name]:
        raise ConfigError(
            f"{name} in the environment carries credentials: take them out, and give them as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or by a role"
        )
    return os.environ[name]


def region() -> str | None:
    """The region of the environment."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


class S3:
    """Objects of one S3 server.

    Every method raises MissingError or ForbiddenError for what the server says of this object,
    FaultError for what may pass, and StorageError for what will not.
    """

    def __init__(self, endpoint: str | None, anonymous: bool, patience_seconds: float) -> None:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self._where = endpoint or "AWS"
        self._patience_seconds = patience_seconds
        options = Config(
            # A few quick tries here; Storage goes on with longer waits.
            retries={"mode": "standard", "max_attempts": 3},
            connect_timeout=10,
            read_timeout=30,
            max_pool_connections=64,
            # Other S3 servers do not know the checksum trailers of new SDKs.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            signature_version=UNSIGNED if anonymous else None,
        )
        try:
            session = boto3.session.Session()
            self._client = session.client(
                "s3",
                endpoint_url=endpoint,
                region_name=region() or "us-east-1",
                config=options,
            )
            self._plain = PlainGet(session, self._client, anonymous)
        except (BotoCoreError, ValueError) as error:  # such as a profile that is not there
            raise ConfigError(f"cannot use S3 at {self._where}: {error}") from error

    def get(self, uri: str, max_bytes: int | None = None) -> tuple[bytes, str]:
        """An object's bytes and its ETag. Raises TooLargeError where they are too many."""
        bucket, key = bucket_and_key(uri)
        got = self._plain.get(bucket, key, max_bytes)
        if got is not None:
            return got
        with self._errors(uri):
            answer = self._client.get_object(Bucket=bucket, Key=key)
            size = int(answer["ContentLength"])
            if max_bytes is not None and size > max_bytes:
                answer["Body"].close()
                raise TooLargeError(f"{uri} has {size} bytes, the limit is {max_bytes}")
            return answer["Body"].read(), _etag(answer)

    def head(self, uri: str) -> tuple[int, str]:
        """An object's size in bytes and its ETag."""
        bucket, key = bucket_and_key(uri)
        with self._errors(uri):
            answer = self._client.head_object(Bucket=bucket, Key=key)
            return int(answer["ContentLength"]), _etag(answer)

    def get_tail(self, uri: str, size: int) -> tuple[bytes, int, str]:
        """An object's last bytes, `size` of them or all, its whole size, and its ETag."""
        bucket, key = bucket_and_key(uri)
        with self._errors(uri):
            try:
                answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes=-{size}")
            except self._client.exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") != "InvalidRange":
                    raise
                # An empty object has no range of bytes.
                answer = self._client.get_object(Bucket=bucket, Key=key)
            data = answer["Body"].read()
            whole = str(answer.get("ContentRange", len(data))).rpartition("/")[2]
            return data, int(whole), _etag(answer)

    def get_range(self, uri: str, start: int, end: int, etag: str) -> bytes:
        """An object's bytes from `start` to before `end`; ConflictError where it has another ETag
        by now."""
        bucket, key = bucket_and_key(uri)
        with self._errors(uri):
            answer = self._client.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", IfMatch=f'"{etag}"'
            )
            data: bytes = answer["Body"].read()
        if len(data) != end - start:
            raise FaultError(
                f"{self._where} gives {len(data)} bytes of {uri} for {end - start}: run the same "
                "command again"
            )
        return data

    def put(self, uri: str, data: bytes, **conditions: str) -> str:
        """Write an object in one request, and return its ETag.

        `conditions`: IfNoneMatch="*" to create only, IfMatch=etag to replace only that version;
        ConflictError where they do not hold.
        """
        bucket, key = bucket_and_key(uri)
        try:
            with self._errors(uri):
                return _etag(
                    self._client.put_object(Bucket=bucket, Key=key, Body=data, **conditions)
                )
        except ConflictError:
            # The answer to an earlier try may have been lost on its way.
            # (An ETag need not be the MD5 of the bytes, so the bytes are compared.)
            with contextlib.suppress(ObjectError):
                there, etag = self.get(uri, max_bytes=len(data))
                if there == data:
                    return etag
            raise
        except MissingError:
            # So AWS answers where there is no version at all to replace; other servers say 412.
            raise ConflictError(f"{uri} was deleted by another program") from None

    def upload(self, uri: str, file: IO[bytes]) -> None:
        """Write an object of any size from an open file, in parts that become it at the end."""
        bucket, key = bucket_and_key(uri)
        with self._errors(uri):
            self._client.upload_fileobj(file, bucket, key)

    def delete(self, uri: str) -> None:
        """Delete an object; that it is not there is no error."""
        bucket, key = bucket_and_key(uri)
        with self._errors(uri):
            self._client.delete_object(Bucket=bucket, Key=key)

    def exists(self, uri: str) -> bool:
        """Whether there is an object of exactly this name."""
        bucket, key = bucket_and_key(uri)
        try:
            # A HEAD's error has no code, so that a missing bucket would look like a missing key.
            with self._errors(uri):
                self._client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].read()
        except MissingError:
            return False
        except StorageError as error:
            if "InvalidRange" in str(error):  # an empty object
                return True
            raise
        return True

    def entries(self, uri: str) -> Iterator[tuple[str, int, str]]:
        """Name, size in bytes and ETag of all objects below a prefix.

        Prefixes side by side are listed at once; the order does not depend on that.
        """
        bucket, key = bucket_and_key(uri, need_key=False)
        prefixes = [f"{key}/" if key else ""]
        while len(prefixes) == 1:
            prefix, prefixes = prefixes[0], []
            for page in self._pages(uri, bucket, prefix, Delimiter="/"):
                yield from _objects(bucket, page)
                prefixes += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            if not prefixes:
                return
        for start in range(0, len(prefixes), _TOGETHER):
            yield from self._list_at_once(uri, bucket, prefixes[start : start + _TOGETHER])

    def _list_at_once(
        self, uri: str, bucket: str, prefixes: list[str]
    ) -> Iterator[tuple[str, int, str]]:
        queues: list[queue.Queue[Any]] = [queue.Queue(_PAGES_AHEAD) for _ in prefixes]
        stopped = threading.Event()

        def put(number: int, item: Any) -> bool:
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    queues[number].put(item, timeout=0.5)
                    return True
            return False

        def run(number: int) -> None:
            try:
                for page in self._pages(uri, bucket, prefixes[number]):
                    if not put(number, list(_objects(bucket, page))):
                        return
                put(number, None)
            except BaseException as error:  # raised again by the reader
                put(number, error)

        with ThreadPoolExecutor(_LISTERS) as pool:
            try:
                for number in range(len(prefixes)):
                    pool.submit(run, number)
                for lines in queues:
                    while (item := lines.get()) is not None:
                        if isinstance(item, BaseException):
                            raise item
                        yield from item
            finally:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _pages(self, uri: str, bucket: str, prefix: str, **options: str) -> Iterator[Any]:
        # Not a paginator: a page that failed is asked for again, not the whole listing.
        token: dict[str, str] = {}
        while True:
            request = {"Bucket": bucket, "Prefix": prefix, **options, **token}
            ask = functools.partial(self._page, uri, request)
            page = with_retries(ask, self._patience_seconds)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, uri: str, request: dict[str, str]) -> Any:
        with self._errors(uri):
            return self._client.list_objects_v2(**request)

    @contextlib.contextmanager
    def _errors(self, uri: str) -> Iterator[None]:
        """Turn botocore's errors into ours: what is certain of one object, and what is a fault."""
        from botocore import exceptions as aws

        bucket = bucket_and_key(uri, need_key=False)[0]
        try:
            yield
        except aws.ClientError as error:
            self._raise(uri, bucket, error.response)
        except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.TokenRetrievalError):
            raise StorageError(
                f"no AWS credentials for {uri}: set AWS_PROFILE, AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or a role, or give --s3-anonymous for a public bucket"
            ) from None
        except aws.ParamValidationError:
            raise StorageError(f"malformed URI {uri!r}: {bucket!r} is no bucket name") from None
        except (aws.BotoCoreError, OSError) as error:
            raise FaultError(
                f"cannot reach {self._where} for {uri} ({type(error).__name__}): check "
                "--s3-endpoint and the network, and run the same command again"
            ) from None

    def _raise(self, uri: str, bucket: str, response: dict[str, Any]) -> NoReturn:
        code = str(response.get("Error", {}).get("Code", "unknown"))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _MISSING:
            raise MissingError(f"{uri} does not exist") from None
        if code == "NoSuchBucket":
            raise StorageError(
                f"bucket {bucket!r} does not exist at {self._where}: create it, or correct the URI"
            ) from None
        if code in _FORBIDDEN:
            raise ForbiddenError(
                f"{self._where} refuses {uri} ({code}): check the permissions of these credentials"
            ) from None
        if code in _CONFLICT:
            raise ConflictError(f"{uri} was changed by another program ({code})") from None
        answer = f"{self._where} answers {code} for {uri}"
        if code == "NotImplemented" or status == 501:
            raise StorageError(
                f"{answer}: this store has no conditional writes (If-Match, If-None-Match), which "
                "keep two runs apart: write to another one"
            ) from None
        if code in _BUSY or status == 429 or status >= 500 or (code.isdigit() and int(code) >= 500):
            raise FaultError(
                f"{answer}: the store is overloaded or down, run the same command again later"
            ) from None
        if code in _WRONG:
            raise StorageError(f"{answer}: the credentials are wrong, set right ones") from None
        if code in _EXPIRED:
            raise StorageError(
                f"{answer}: the credentials have expired, renew them and run the same command again"
            ) from None
        raise StorageError(
            f"{answer}: run the same command again, or look the code up in the store's "
            "documentation"
        ) from None


def _objects(bucket: str, page: Any) -> Iterator[tuple[str, int, str]]:
    for item in page.get("Contents", ()):
        # A console writes empty objects "folder/" to show folders.
        if not item["Key"].endswith("/"):
            yield f"s3://{bucket}/{item['Key']}", item["Size"], _etag(item)


def _etag(answer: Any) -> str:
    return str(answer["ETag"]).strip('"')
