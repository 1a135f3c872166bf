"""S3 through boto3: the error code of its GET tells a missing object from a fault."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from monkeyray.errors import (
    ConfigError,
    ConflictError,
    FaultError,
    MissingError,
)
from monkeyray.redact import masked
from monkeyray.storage.backends.local import temporary_file
from monkeyray.storage.backends.protocol import (
    ABSENT,
    Blob,
    Entry,
    check_key,
    check_size,
    written_before,
)
from monkeyray.storage.backends.s3_errors import EmptyObjectError, s3_errors
from monkeyray.storage.backends.s3_get import PlainGet
from monkeyray.storage.location import Location
from monkeyray.storage.ranges import RangeFile
from monkeyray.storage.retries import with_retries

if TYPE_CHECKING:
    import pyarrow.fs

#: Prefixes that are listed in parallel, of which each may be some pages of 1,000 names ahead.
_LISTERS = 16
_PAGES_AHEAD = 4
_TOGETHER = 256


def endpoint_of(given: str | None) -> str | None:
    """The URL of the S3 server: the given one, or that of the environment, or None for AWS.

    Raises ConfigError if that of the environment carries a password, which messages would show.
    """
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    name = next((name for name in names if os.environ.get(name)), None)
    if given or name is None:
        return given
    if masked(os.environ[name]) != os.environ[name]:
        raise ConfigError(
            f"{name} in the environment contains credentials: remove them, and supply them "
            "as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or through a role"
        )
    return os.environ[name]


@dataclass(frozen=True)
class S3Access:
    """How to reach a bucket. `endpoint`: the URL of its server; None for that of the environment.
    `profile`: the account, as AWS's configuration files name it; None for that of the environment.
    """

    endpoint: str | None = None
    profile: str | None = None
    anonymous: bool = False


class S3Store:
    """One S3 server as one account, see protocol.Store."""

    def __init__(self, access: S3Access, patience_seconds: float) -> None:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self._endpoint = endpoint = endpoint_of(access.endpoint)
        self._access = access
        self._where = endpoint or "AWS"
        self.patience_seconds = patience_seconds
        options = Config(
            # A few quick tries here; Storage retries with longer waits.
            retries={"mode": "standard", "max_attempts": 3},
            connect_timeout=10,
            read_timeout=30,
            max_pool_connections=64,
            # Other S3 servers do not know the checksum trailers of newer SDKs.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            signature_version=UNSIGNED if access.anonymous else None,
        )
        try:
            self._session = session = boto3.session.Session(profile_name=access.profile)
            own = session._session.get_scoped_config().get("region")
            variables = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            # A profile that was asked for goes before the environment.
            self._region = own if access.profile and own else variables or own
            self._client = session.client(
                "s3",
                endpoint_url=endpoint,
                region_name=self._region or "us-east-1",
                config=options,
            )
            self._plain = PlainGet(session, self._client, access.anonymous)
        except (BotoCoreError, ValueError) as error:  # such as an unknown profile
            way_out = ": add it to ~/.aws/config, or correct --profile" if access.profile else ""
            raise ConfigError(f"cannot use S3 at {self._where}: {error}{way_out}") from error

    def read(self, place: Location, max_bytes: int | None = None) -> Blob:
        plain = self._plain.serves(place)
        if plain and (blob := self._plain.get(place, max_bytes)) is not None:
            return blob
        data, _, etag = self._get(place, max_bytes)
        if plain:
            self._plain.failed(place.bucket)
        return Blob(data, etag)

    def _get(
        self, place: Location, max_bytes: int | None = None, **options: str
    ) -> tuple[bytes, int, str]:
        """An object's bytes, or those of a range, its whole size, and its ETag."""
        with self._errors(place):
            answer = self._client.get_object(**_named(place), **options)
            with contextlib.closing(answer["Body"]) as body:
                check_size(place, int(answer["ContentLength"]), max_bytes)
                data: bytes = body.read()
            whole = str(answer.get("ContentRange", len(data))).rpartition("/")[2]
            return data, int(whole), _etag(answer)

    def stat(self, place: Location) -> Entry:
        with self._errors(place):
            answer = self._client.head_object(**_named(place))
            return Entry(str(place), int(answer["ContentLength"]), _etag(answer))

    def open(self, place: Location) -> IO[bytes]:
        return cast(IO[bytes], RangeFile(self, place))

    def get_tail(self, place: Location, size: int) -> tuple[bytes, int, str]:
        """An object's last `size` bytes or all of them, its whole size in bytes, and its ETag."""
        try:
            return self._get(place, Range=f"bytes=-{size}")
        except EmptyObjectError:
            return self._get(place)

    def get_range(self, place: Location, start: int, end: int, etag: str) -> bytes:
        """An object's bytes from `start` to before `end`. Raises ConflictError if its ETag has
        changed."""
        data = self._get(place, Range=f"bytes={start}-{end - 1}", IfMatch=f'"{etag}"')[0]
        if len(data) != end - start:
            raise FaultError(
                f"{self._where} returned {len(data)} of {end - start} bytes of {place}: run the "
                "same command again"
            )
        return data

    def write(self, place: Location, data: bytes, replacing: str | None = None) -> str:
        conditions = {} if replacing is None else {"IfMatch": replacing}
        if replacing == ABSENT:
            conditions = {"IfNoneMatch": "*"}
        try:
            with self._errors(place):
                return _etag(self._client.put_object(**_named(place), Body=data, **conditions))
        except ConflictError:
            if (version := written_before(self, place, data)) is not None:
                return version
            raise
        except MissingError:
            # AWS says this if there is no version at all to replace; other servers say 412.
            raise ConflictError(f"{place} was deleted by another program") from None

    def stage(self, place: Location) -> Path:
        return temporary_file(place)

    def publish(self, staged: Path, place: Location) -> None:
        with open(staged, "rb") as file, self._errors(place):
            self._client.upload_fileobj(file, **_named(place))

    def delete(self, place: Location) -> None:
        with self._errors(place):
            self._client.delete_object(**_named(place))

    def exists(self, place: Location) -> bool:
        return self._find(place) is not None

    def _find(self, place: Location) -> Entry | None:
        # Not HEAD: its error has no code, so a missing bucket would look like a missing key.
        try:
            _, size, etag = self.get_tail(place, 1)
        except MissingError:
            return None
        return Entry(str(place), size, etag)

    def filesystem(self, place: Location) -> tuple[pyarrow.fs.FileSystem, str]:
        from pyarrow import fs

        region = self._region
        if self._endpoint is None and region is None:
            region = fs.resolve_s3_region(place.bucket)
        keys: dict[str, str | None] = {}
        # Without a profile, pyarrow finds credentials by itself, and renews them.
        if self._access.profile and not self._access.anonymous:
            frozen = self._session.get_credentials().get_frozen_credentials()
            keys = {
                "access_key": frozen.access_key,
                "secret_key": frozen.secret_key,
                "session_token": frozen.token,
            }
        opened = fs.S3FileSystem(
            **keys,
            anonymous=self._access.anonymous,
            region=region,
            endpoint_override=self._endpoint,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=6),
        )
        return opened, f"{place.bucket}/{place.path}"

    def list(self, place: Location) -> Iterator[Entry]:
        """All objects below a prefix, or the object itself.

        Sibling prefixes are listed in parallel; the order does not depend on that.
        """
        if place.path:
            find = functools.partial(self._find, place)
            if (found := with_retries(find, self.patience_seconds)) is not None:
                yield found
                return
        prefixes = [f"{place.path}/" if place.path else ""]
        while len(prefixes) == 1:
            prefix, prefixes = prefixes[0], []
            for page in self._pages(place, prefix, Delimiter="/"):
                yield from _objects(place.bucket, page)
                prefixes += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            if not prefixes:
                return
        for start in range(0, len(prefixes), _TOGETHER):
            yield from self._list_at_once(place, prefixes[start : start + _TOGETHER])

    def _list_at_once(self, place: Location, prefixes: Sequence[str]) -> Iterator[Entry]:
        queues: Sequence[queue.Queue[Any]] = [queue.Queue(_PAGES_AHEAD) for _ in prefixes]
        stopped = threading.Event()

        def put(number: int, item: Any) -> bool:
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    queues[number].put(item, timeout=0.5)
                    return True
            return False

        def run(number: int) -> None:
            try:
                for page in self._pages(place, prefixes[number]):
                    if not put(number, [*_objects(place.bucket, page)]):
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

    def _pages(self, place: Location, prefix: str, **options: str) -> Iterator[Any]:
        # Not a paginator, so that a failed page is retried and not the whole listing.
        token: dict[str, str] = {}
        while True:
            request = {"Bucket": place.bucket, "Prefix": prefix, **options, **token}
            ask = functools.partial(self._page, place, request)
            page = with_retries(ask, self.patience_seconds)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _page(self, place: Location, request: dict[str, str]) -> Any:
        with self._errors(place):
            return self._client.list_objects_v2(**request)

    def _errors(self, place: Location) -> contextlib.AbstractContextManager[None]:
        return s3_errors(self._where, place)


def _named(place: Location) -> dict[str, str]:
    check_key(place)
    return {"Bucket": place.bucket, "Key": place.path}


def _objects(bucket: str, page: Any) -> Iterator[Entry]:
    for item in page.get("Contents", ()):
        # Consoles write empty objects "folder/" to show folders.
        if not item["Key"].endswith("/"):
            yield Entry(f"s3://{bucket}/{item['Key']}", item["Size"], _etag(item))


def _etag(answer: Any) -> str:
    return str(answer["ETag"]).strip('"')
