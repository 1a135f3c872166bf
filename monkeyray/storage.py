"""URIs to bytes and back: local disk, S3 and whatever pyarrow or fsspec opens beside them.

A path without a scheme is a local one. An `s3://bucket/key` is taken literally, so that keys with
spaces, `%`, `#`, `?` or `+` keep their names; only `file://` is percent-decoded, as its standard
says. S3 goes through boto3, because GET's own error code tells a missing object from a fault.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from monkeyray.errors import ConfigError, ForbiddenError, MissingError, StorageError

if TYPE_CHECKING:
    import pyarrow.fs

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+)://")
_HALF_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+:/?[^/]")


@dataclass(frozen=True)
class Entry:
    """One file of a listing. `version` is the ETag on S3, elsewhere the time of modification."""

    uri: str
    size_bytes: int | None
    version: str | None


@dataclass(frozen=True)
class Blob:
    """A file's bytes, with the version that they have."""

    data: bytes
    version: str | None


def scheme(uri: str) -> str:
    """The scheme of a URI, `file` for a path.

    >>> scheme("s3://bucket/key"), scheme("/data/x.jpg"), scheme("photos")
    ('s3', 'file', 'file')
    """
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def is_local(uri: str) -> bool:
    """Whether a URI is on this machine's own file system."""
    return scheme(uri) == "file"


def normalise(uri: str) -> str:
    """A URI in the one form used everywhere: absolute path, or scheme://… with no end slash.

    Raises ConfigError for a URI that is malformed or that carries a password.
    """
    if not uri.strip():
        raise ConfigError("a URI is empty: give a path or something like s3://bucket/prefix")
    kind = scheme(uri)
    if kind == "file":
        if _HALF_SCHEME.match(uri) and not Path(uri).exists():
            raise ConfigError(f"malformed URI {uri!r}: write it as scheme://bucket/path")
        parts = urlsplit(uri) if _SCHEME.match(uri) else None
        if parts is not None and parts.netloc not in ("", "localhost"):
            raise ConfigError(f"malformed URI {uri!r}: a file URI has three slashes, file:///path")
        path = unquote(uri[len("file://") + len(parts.netloc) :]) if parts else uri
        # Not resolve(): a link keeps the name under which it was given.
        return os.path.abspath(Path(path).expanduser())  # noqa: PTH100
    authority, slash, rest = uri[len(kind) + 3 :].partition("/")
    if "@" in authority and kind not in ("abfs", "abfss"):
        raise ConfigError(
            f"a {kind}:// URI carries credentials before the @: take them out, and give them "
            "through the environment or a role"
        )
    if not authority and kind != "memory":
        raise ConfigError(f"malformed URI {uri!r}: no bucket, write {kind}://bucket/path")
    return f"{kind}://{authority}{slash}{rest}".rstrip("/")


def join(uri: str, *names: str) -> str:
    """A URI below another one.

    >>> join("s3://bucket/a", "b", "c.jpg"), join("/", "x")
    ('s3://bucket/a/b/c.jpg', '/x')
    """
    return "/".join([uri.rstrip("/"), *names])


@dataclass(frozen=True)
class Storage:
    """Opens URIs. Holds options only, so it travels to the workers; clients are made on first use.

    Credentials are never part of it: each process takes them from its own environment or role.
    """

    s3_endpoint: str | None = None
    s3_anonymous: bool = False
    _clients: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clients": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    # -- whole files ---------------------------------------------------------------------------

    def read(self, uri: str) -> Blob:
        """All bytes of a file.

        Raises MissingError or ForbiddenError when the store says so of this file, and
        StorageError for everything else, after retries.
        """
        if is_local(uri):
            with _local_errors(uri), open(uri, "rb") as file:
                version = _mtime(os.fstat(file.fileno()).st_mtime_ns)
                return Blob(file.read(), version)
        if scheme(uri) == "s3":
            bucket, key = _bucket_key(uri)
            with self._s3_errors(uri):
                answer = self._s3().get_object(Bucket=bucket, Key=key)
                return Blob(answer["Body"].read(), answer["ETag"].strip('"'))
        filesystem, path = self.arrow(uri)
        with _local_errors(uri):
            info = filesystem.get_file_info(path)
            with filesystem.open_input_stream(path) as stream:
                return Blob(stream.read(), _mtime(info.mtime_ns))

    def write(self, uri: str, data: bytes) -> None:
        """Publish a file whole or not at all: readers see the old one, or all of the new one."""
        if is_local(uri):
            path = Path(uri)
            # The temporary name must not match a reader's *.parquet.
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            with _local_errors(uri):
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    with open(temporary, "wb") as file:
                        file.write(data)
                        file.flush()
                        os.fsync(file.fileno())
                    temporary.replace(path)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise
        elif scheme(uri) == "s3":
            bucket, key = _bucket_key(uri)
            with self._s3_errors(uri):
                self._s3().put_object(Bucket=bucket, Key=key, Body=data)
        else:
            filesystem, name = self.arrow(uri)
            with _local_errors(uri):
                filesystem.create_dir(name.rsplit("/", 1)[0], recursive=True)
                with filesystem.open_output_stream(name) as stream:
                    stream.write(data)

    def delete(self, uri: str) -> None:
        """Delete one file; that it is not there is no error."""
        with contextlib.suppress(MissingError):
            if is_local(uri):
                with _local_errors(uri):
                    Path(uri).unlink()
            elif scheme(uri) == "s3":
                bucket, key = _bucket_key(uri)
                with self._s3_errors(uri):
                    self._s3().delete_object(Bucket=bucket, Key=key)
            else:
                filesystem, path = self.arrow(uri)
                with _local_errors(uri):
                    filesystem.delete_file(path)

    def delete_tree(self, uri: str) -> None:
        """Delete everything below a URI; that there is nothing is no error."""
        if is_local(uri):
            import shutil

            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(uri)
            return
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda entry: self.delete(entry.uri), list(self.list(uri))))

    def exists(self, uri: str) -> bool:
        """Whether there is a file (not a folder) of this name."""
        if is_local(uri):
            return Path(uri).is_file()
        if scheme(uri) == "s3":
            bucket, key = _bucket_key(uri)
            with self._s3_errors(uri):
                page = self._s3().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
                return any(item["Key"] == key for item in page.get("Contents", ()))
        filesystem, path = self.arrow(uri)
        with _local_errors(uri):
            return bool(filesystem.get_file_info(path).is_file)

    def list(self, uri: str) -> Iterator[Entry]:
        """All files below a folder or prefix, at every depth, streamed, in the store's own order.

        A URI that is itself a file lists just that. Nothing there lists nothing, but a missing
        bucket and wrong credentials raise StorageError.
        """
        if is_local(uri):
            if Path(uri).is_file():
                info = Path(uri).stat()
                yield Entry(uri, info.st_size, _mtime(info.st_mtime_ns))
            elif Path(uri).exists():
                yield from _walk(uri, set())
        elif scheme(uri) == "s3":
            yield from self._list_s3(uri)
        else:
            yield from self._list_arrow(uri)

    def _list_s3(self, uri: str) -> Iterator[Entry]:
        bucket, key = _bucket_key(uri, need_key=False)
        if key and self.exists(uri):
            prefix, only = key, key
        else:
            prefix, only = (f"{key}/" if key else ""), None
        with self._s3_errors(uri):
            pages = self._s3().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    # A console writes empty objects "folder/" to show folders.
                    if item["Key"].endswith("/") or (only and item["Key"] != only):
                        continue
                    name = f"s3://{bucket}/{item['Key']}"
                    yield Entry(name, item["Size"], item["ETag"].strip('"'))

    def _list_arrow(self, uri: str) -> Iterator[Entry]:
        from pyarrow.fs import FileSelector

        filesystem, path = self.arrow(uri)
        with _local_errors(uri):
            if filesystem.get_file_info(path).is_file:
                infos = [filesystem.get_file_info(path)]
            else:
                selector = FileSelector(path, allow_not_found=True, recursive=True)
                infos = filesystem.get_file_info(selector)
        for info in sorted(infos, key=lambda info: str(info.path)):
            if info.is_file:
                name = f"{scheme(uri)}://{info.path.lstrip('/')}"
                yield Entry(name, info.size, _mtime(info.mtime_ns))

    # -- checks before heavy work --------------------------------------------------------------

    def check_writable(self, uri: str) -> None:
        """Write and delete a small file below a URI. Raises StorageError with the reason."""
        probe = join(uri, f".monkeyray-{uuid.uuid4().hex[:8]}.tmp")
        try:
            self.write(probe, b"")
            self.delete(probe)
        except StorageError as error:
            raise StorageError(f"cannot write to {uri}: {error}") from error

    # -- file systems --------------------------------------------------------------------------

    def arrow(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
        """The pyarrow file system for a URI and the path in it."""
        import pyarrow
        from pyarrow import fs

        kind = scheme(uri)
        if kind == "file":
            return fs.LocalFileSystem(), uri
        if kind == "s3":
            return self._arrow_s3(uri), uri[len("s3://") :]
        try:
            filesystem, path = fs.FileSystem.from_uri(uri)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            import fsspec

            try:
                opened, path = fsspec.url_to_fs(uri)
            except (ValueError, ImportError) as error:
                raise ConfigError(
                    f"cannot open {uri!r}: {error}; MonkeyRay opens paths, s3://, and what "
                    "pyarrow or an installed fsspec package opens"
                ) from error
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(opened))
        return filesystem, path

    def _arrow_s3(self, uri: str) -> pyarrow.fs.FileSystem:
        from pyarrow import fs

        endpoint = self._endpoint()
        region = _region()
        if endpoint is None and region is None:
            region = fs.resolve_s3_region(_bucket_key(uri, need_key=False)[0])
        return fs.S3FileSystem(
            anonymous=self.s3_anonymous,
            region=region,
            endpoint_override=endpoint,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=6),
        )

    def _endpoint(self) -> str | None:
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        return self.s3_endpoint or next((os.environ[n] for n in names if os.environ.get(n)), None)

    def _s3(self) -> Any:
        client = self._clients.get("s3")
        if client is None:
            import boto3
            from botocore import UNSIGNED
            from botocore.config import Config

            options = Config(
                retries={"mode": "standard", "max_attempts": 6},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=64,
                # Other S3 servers do not know the checksum trailers of new SDKs.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                signature_version=UNSIGNED if self.s3_anonymous else None,
            )
            client = boto3.session.Session().client(
                "s3",
                endpoint_url=self._endpoint(),
                region_name=_region() or "us-east-1",
                config=options,
            )
            self._clients["s3"] = client
        return client

    @contextlib.contextmanager
    def _s3_errors(self, uri: str) -> Iterator[None]:
        """Turn botocore's errors into ours: what is certain of one object, and what is a fault."""
        from botocore import exceptions as aws

        bucket = uri[len("s3://") :].partition("/")[0]
        where = self._endpoint() or "AWS"
        try:
            yield
        except aws.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown")
            if code in ("NoSuchKey", "404"):
                raise MissingError(f"{uri} does not exist") from None
            if code == "NoSuchBucket":
                raise StorageError(
                    f"bucket {bucket!r} does not exist at {where}: create it, or correct the URI"
                ) from None
            if code in ("AccessDenied", "403", "AllAccessDisabled", "InvalidObjectState"):
                raise ForbiddenError(
                    f"{where} refuses {uri} ({code}): check the permissions of these credentials"
                ) from None
            raise StorageError(f"{where} answers {code} for {uri}: {_advice(code)}") from None
        except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.TokenRetrievalError):
            raise StorageError(
                f"no AWS credentials for {uri}: set AWS_PROFILE, AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY or a role, or give --s3-anonymous for a public bucket"
            ) from None
        except aws.ParamValidationError:
            raise StorageError(f"malformed URI {uri!r}: {bucket!r} is no bucket name") from None
        except (aws.BotoCoreError, OSError) as error:
            raise StorageError(
                f"cannot reach {where} for {uri} ({type(error).__name__}): check --s3-endpoint "
                "and the network"
            ) from None


def _advice(code: str) -> str:
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"):
        return "the credentials are wrong, set right ones"
    if code in ("ExpiredToken", "RequestExpired", "ExpiredTokenException"):
        return "the credentials have expired, renew them and run the same command again"
    if code in ("SlowDown", "503", "500", "InternalError", "ServiceUnavailable", "Throttling"):
        return "the store is overloaded, run the same command again later"
    return "run the same command again, or look the code up in the store's documentation"


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _bucket_key(uri: str, need_key: bool = True) -> tuple[str, str]:
    bucket, _, key = uri[len("s3://") :].partition("/")
    if need_key and not key:
        raise ConfigError(f"{uri} is a bucket, not a file: write s3://{bucket}/path")
    return bucket, key


def _mtime(nanoseconds: int | None) -> str | None:
    if nanoseconds is None:
        return None
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _walk(folder: str, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    """All files below a folder in sorted order, through links, each real folder once."""
    with _local_errors(folder), os.scandir(folder) as scan:
        children = sorted(scan, key=lambda child: child.name)
        info = Path(folder).stat()
    if (info.st_dev, info.st_ino) in seen:
        return
    seen.add((info.st_dev, info.st_ino))
    for child in children:
        if child.is_dir():
            yield from _walk(child.path, seen)
        else:
            # A dangling link is listed all the same: it becomes a row `missing`.
            try:
                stat = child.stat()
                yield Entry(child.path, stat.st_size, _mtime(stat.st_mtime_ns))
            except OSError:
                yield Entry(child.path, None, None)


@contextlib.contextmanager
def _local_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"{uri} does not exist") from None
    except PermissionError:
        raise ForbiddenError(f"no permission for {uri}: change its mode or the user") from None
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise StorageError(f"{uri}: {reason}") from None
