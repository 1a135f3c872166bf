"""Azure Blob Storage and Google Cloud Storage, through obstore and each cloud's own credentials."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from monkeyray.errors import (
    ArchivedError,
    ConfigError,
    ConflictError,
    FaultError,
    ForbiddenError,
    KeyNameError,
    MissingError,
    StorageError,
)
from monkeyray.storage.backends.local import temporary_file
from monkeyray.storage.backends.obstore_limits import is_expressible, owns_threads
from monkeyray.storage.backends.protocol import Blob, Entry, check_key, check_size, written_before
from monkeyray.storage.location import Location
from monkeyray.storage.ranges import RangeFile
from monkeyray.storage.retries import with_retries

if TYPE_CHECKING:
    import obstore.store
    import pyarrow.fs

AZURE = ("az", "abfs", "abfss")
GOOGLE = ("gs",)

#: A page of a listing: names, sizes and versions, and where the next begins.
Page = tuple[list[tuple[str, int, str]], str | None]

_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3}) ")
_OPTIONS: dict[str, Any] = {
    "client_options": {
        "allow_http": True, "connect_timeout": "10s", "read_timeout": "30s", "timeout": "1h",
    },
    "retry_config": {"max_retries": 0},
}  # fmt: skip


@dataclass(frozen=True)
class CloudAccess:
    """A bucket or container, as written in URIs, and whether to read it without an account."""

    scheme: str
    bucket: str
    anonymous: bool = False


@dataclass(frozen=True)
class ObstoreStore:
    """One bucket or container, see protocol.Store.

    `page`: lists a page of the names with a prefix. `arrow`: opens pyarrow's file system for the
    account. `by_generation`: whether versions are Google's generations, otherwise ETags.
    """

    store: obstore.store.ObjectStore
    where: str
    page: Callable[[str, str | None], Page]
    arrow: Callable[[], pyarrow.fs.FileSystem]
    by_generation: bool
    patience_seconds: float

    def read(self, place: Location, max_bytes: int | None) -> Blob:
        answer = self._get(place)
        with cloud_errors(place, self.where):
            check_size(place, answer.meta["size"], max_bytes)
            return Blob(answer.bytes().to_bytes(), self._version(answer.meta))

    def stat(self, place: Location) -> Entry:
        import obstore

        try:
            with cloud_errors(place, self.where):
                meta = obstore.head(self.store, _key(place))
        except FaultError:
            raise
        except StorageError:
            # HEAD's error has no code, so a missing bucket looks like a missing key; GET's has.
            # GET does not come first: it begins to send the file, and a large one costs its
            # connection.
            meta = self._get(place).meta
        return Entry(str(place), meta["size"], self._version(meta))

    def _get(self, place: Location, **options: Any) -> Any:
        import obstore

        with cloud_errors(place, self.where):
            return obstore.get(self.store, _key(place), options=options)  # type: ignore[arg-type]

    def open(self, place: Location) -> IO[bytes]:
        return cast(IO[bytes], RangeFile(self, place))

    def get_tail(self, place: Location, size: int) -> tuple[bytes, int, str]:
        entry = self.stat(place)
        whole, version = entry.size_bytes or 0, str(entry.version)
        start = max(0, whole - size)
        tail = self.get_range(place, start, whole, version) if whole else b""
        return tail, whole, version

    def get_range(self, place: Location, start: int, end: int, version: str) -> bytes:
        answer = self._get(place, range=(start, end))
        if self._version(answer.meta) != version:
            raise ConflictError(f"{place} was changed by another program")
        with cloud_errors(place, self.where):
            return bytes(answer.bytes().to_bytes())

    def write(self, place: Location, data: bytes, replacing: str | None) -> str | None:
        import obstore

        mode: Any = "overwrite" if replacing is None else "create"
        if replacing:
            mode = {"version": replacing} if self.by_generation else {"e_tag": f'"{replacing}"'}
        try:
            with cloud_errors(place, self.where):
                return self._version(
                    obstore.put(self.store, _key(place), data, mode=mode, use_multipart=False)
                )
        except ConflictError:
            if (version := written_before(self, place, data)) is not None:
                return version
            raise
        except MissingError:
            raise ConflictError(f"{place} was deleted by another program") from None

    def stage(self, place: Location) -> Path:
        return temporary_file(place)

    def publish(self, staged: Path, place: Location) -> None:
        import obstore

        with cloud_errors(place, self.where):
            obstore.put(self.store, _key(place), staged)

    def delete(self, place: Location) -> None:
        import obstore

        with cloud_errors(place, self.where):
            obstore.delete(self.store, _key(place))

    def exists(self, place: Location) -> bool:
        try:
            self.stat(place)
        except (MissingError, KeyNameError):
            return False
        return True

    def list(self, place: Location) -> Iterator[Entry]:
        if place.path:
            with contextlib.suppress(MissingError, KeyNameError):
                yield with_retries(lambda: self.stat(place), self.patience_seconds)
                return
        prefix, token = f"{place.path}/" if place.path else "", None
        while True:
            ask = functools.partial(self._page, place, prefix, token)
            names, token = with_retries(ask, self.patience_seconds)
            for name, size, version in names:
                yield Entry(f"{place.scheme}://{place.bucket}/{name}", size, version)
            if token is None:
                return

    def _page(self, place: Location, prefix: str, token: str | None) -> Page:
        with cloud_errors(place, self.where):
            return self.page(prefix, token)

    def filesystem(self, place: Location) -> tuple[pyarrow.fs.FileSystem, str]:
        return self.arrow(), f"{place.bucket.partition('@')[0]}/{place.path}"

    def _version(self, meta: Any) -> str | None:
        version = meta["version" if self.by_generation else "e_tag"]
        return str(version).strip('"') if version else None


def open_cloud(access: CloudAccess, patience_seconds: float) -> ObstoreStore:
    """Open a bucket or container. Raises ConfigError if an account or a package is missing, and
    StorageError if there are no credentials."""
    opened = _open_azure if access.scheme in AZURE else _open_google
    return opened(access, patience_seconds)


# -- Azure ------------------------------------------------------------------------------


def container_of(bucket: str) -> tuple[str, str]:
    """The container and the account of az://container or abfs://container@account.host.

    Raises ConfigError if nothing names the account.

    >>> container_of("photos@mine.dfs.core.windows.net")
    ('photos', 'mine')
    """
    container, _, host = bucket.partition("@")
    account = host.partition(".")[0] or next(filter(None, map(os.environ.get, _ACCOUNTS)), None)
    if account is None:
        raise ConfigError(
            f"no account for the container {container!r}: set AZURE_STORAGE_ACCOUNT, or write "
            f"abfs://{container}@ACCOUNT.dfs.core.windows.net/path"
        )
    return container, account


def _open_azure(access: CloudAccess, patience_seconds: float) -> ObstoreStore:
    from obstore.store import AzureStore

    try:
        from azure.identity import DefaultAzureCredential
        from azure.storage.blob import ContainerClient
        from obstore.auth.azure import AzureCredentialProvider
    except ImportError:
        raise ConfigError(
            f"{access.scheme}:// needs Azure's packages: pip install 'monkeyray[azure]'"
        ) from None

    container, account = container_of(access.bucket)
    # Its warning is a page long, and our error says it in a line.
    logging.getLogger("azure.identity").setLevel(logging.CRITICAL)
    url = os.environ.get("AZURE_STORAGE_ENDPOINT") or f"https://{account}.blob.core.windows.net"
    config: dict[str, Any] = {
        "account_name": account, "container_name": container, "endpoint": url,
        "skip_signature": access.anonymous,
    }  # fmt: skip
    key = os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or os.environ.get("AZURE_STORAGE_KEY")
    signature = os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    if account not in map(os.environ.get, _ACCOUNTS) and any(map(os.environ.get, _ACCOUNTS)):
        key = signature = None  # those of another account
    credential: Any = None
    provider = None
    if access.anonymous:
        pass
    elif key:
        config["account_key"] = key
        credential = {"account_name": account, "account_key": key}
    elif signature:
        config["sas_key"] = credential = signature.removeprefix("?")
    else:
        credential = DefaultAzureCredential()
        with cloud_errors(Location(access.scheme, access.bucket, ""), account):
            credential.get_token("https://storage.azure.com/.default")
        provider = AzureCredentialProvider(credential)
    client = ContainerClient(url, container, credential=credential)
    store = AzureStore(config=config, credential_provider=provider, **_OPTIONS)  # type: ignore[arg-type]

    def page(prefix: str, token: str | None) -> Page:
        pages: Any = client.list_blobs(name_starts_with=prefix, include=["metadata"]).by_page(token)
        found = [
            (item.name, item.size, item.etag.strip('"'))
            for item in next(pages, ())
            # Folders of a hierarchical account, and those that tools write.
            if not item.name.endswith("/") and "hdi_isfolder" not in (item.metadata or {})
        ]
        return found, pages.continuation_token or None

    def arrow() -> pyarrow.fs.FileSystem:
        from pyarrow.fs import AzureFileSystem

        scheme, _, host = url.partition("://")
        hosts = {f"{kind}_storage_authority": host.partition("/")[0] for kind in ("blob", "dfs")}
        hosts |= {f"{kind}_storage_scheme": scheme for kind in ("blob", "dfs")}
        return AzureFileSystem(
            account,
            account_key=key,
            sas_token=None if key else signature,
            **(hosts if "AZURE_STORAGE_ENDPOINT" in os.environ else {}),
        )

    return ObstoreStore(store, f"account {account}", page, arrow, False, patience_seconds)


# -- Google -----------------------------------------------------------------------------


def _open_google(access: CloudAccess, patience_seconds: float) -> ObstoreStore:
    import google.auth
    import requests
    from google.auth.transport.requests import AuthorizedSession
    from obstore.auth.google import GoogleCredentialProvider
    from obstore.store import GCSStore

    # As Google's own libraries do: an emulator has no accounts.
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    base = emulator or "https://storage.googleapis.com"
    config: dict[str, Any] = {"bucket": access.bucket, "base_url": base}
    session: Any = requests.Session()
    provider: Any = lambda: {"token": "none", "expires_at": None}  # noqa: E731
    config["skip_signature"] = access.anonymous  # for reading; obstore signs each write
    if not (access.anonymous or emulator):
        with cloud_errors(Location(access.scheme, access.bucket, ""), "Google"):
            scope = "https://www.googleapis.com/auth/devstorage.read_write"
            credentials, _ = google.auth.default(scopes=[scope])
        session = AuthorizedSession(credentials)
        provider = GoogleCredentialProvider(credentials)
    store = GCSStore(config=config, credential_provider=provider, **_OPTIONS)  # type: ignore[arg-type]

    def page(prefix: str, token: str | None) -> Page:
        answer = session.get(
            f"{base}/storage/v1/b/{access.bucket}/o",
            params={
                "prefix": prefix, "pageToken": token,
                "fields": "items(name,size,generation),nextPageToken",
            },
            timeout=(10, 30),
        )  # fmt: skip
        answer.raise_for_status()
        content = answer.json()
        found = [
            (item["name"], int(item["size"]), str(item["generation"]))
            for item in content.get("items", ())
            if not item["name"].endswith("/")
        ]
        return found, content.get("nextPageToken")

    def arrow() -> pyarrow.fs.FileSystem:
        from pyarrow.fs import GcsFileSystem

        return GcsFileSystem(anonymous=access.anonymous)

    return ObstoreStore(store, "Google", page, arrow, True, patience_seconds)


# -- what errors mean -------------------------------------------------------------------


def _key(place: Location) -> str:
    check_key(place)
    if not is_expressible(place.path):
        raise KeyNameError(
            f"{str(place)!r} cannot be read: its key has an empty segment, . or .., or a control "
            "character"
        )
    return place.path


@contextlib.contextmanager
def cloud_errors(place: Location, where: str) -> Iterator[None]:
    """Turn the errors of obstore and of the clouds' own packages into ours."""
    if not owns_threads():
        raise StorageError(
            f"{place} cannot be reached from a fork of a process that has used object stores: "
            'start processes with the method "spawn"'
        )
    try:
        yield
    except (ConfigError, StorageError):
        raise
    except Exception as error:
        raise _meaning(error, place, where) from None


def _meaning(error: Exception, place: Location, where: str) -> StorageError:
    text = str(error)
    kind = type(error).__name__
    response = getattr(error, "response", None)  # of requests and of azure.core
    status = int(getattr(response, "status_code", 0) or 0)
    if found := _STATUS.search(text):
        status = int(found[1])
    body = _CODE.search(text)
    code = str(getattr(error, "error_code", None) or (body and body[1]) or kind)
    said = f"{where} answers {code} for {place}"
    if code in ("ContainerNotFound", "NoSuchBucket") or (status == 404 and response is not None):
        return StorageError(
            f"{place.bucket!r} does not exist at {where}: create it, or correct the URI"
        )
    if code == "BlobArchived":
        return ArchivedError(f"{place} is archived: restore it, and run the same command again")
    if isinstance(error, FileNotFoundError) or status == 404:
        return MissingError(f"{place} does not exist")
    if kind in ("AlreadyExistsError", "PreconditionError"):
        return ConflictError(f"{place} was changed by another program ({code})")
    if kind in ("ClientAuthenticationError", "DefaultCredentialsError", "RefreshError"):
        return StorageError(
            f"no credentials for {place}: log in (az login, or gcloud auth application-default "
            f"login) or use a role, or, if it is public, give --anonymous {place}"
        )
    if status == 401 or code in ("AuthenticationFailed", "AuthorizationFailure", "InvalidSecurity"):
        return StorageError(f"{said}: the credentials are wrong or have expired, renew them")
    if status == 403:
        return ForbiddenError(f"{said}: check the permissions of these credentials")
    if status in (408, 429) or status >= 500:
        return FaultError(
            f"{said}: the store is overloaded or down, run the same command again later"
        )
    if status:
        return StorageError(f"{said} ({status}): look the code up in the store's documentation")
    return FaultError(
        f"cannot reach {where} for {place} ({kind}): check the account and the network, and run "
        "the same command again"
    )
