"""Files on web servers, by https:// and http://, to read only."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from monkeyray.errors import (
    ConfigError,
    FaultError,
    ForbiddenError,
    MissingError,
    StorageError,
)
from monkeyray.storage.backends.protocol import Blob, Entry, check_size, check_version
from monkeyray.storage.location import Location
from monkeyray.storage.ranges import RangeFile
from monkeyray.storage.retries import with_retries

if TYPE_CHECKING:
    import pyarrow.fs

#: Connections of a process to one host.
_CONNECTIONS = 8
_PIECE_BYTES = 2**17
#: Larger files are opened in ranges.
_WHOLE_BYTES = 8 * 2**20

#: Statuses that deny access, and transient ones below 500.
_REFUSED = (401, 402, 403, 407, 451)
_PASSING = (408, 425, 429)


class HttpStore:
    """See protocol.Store. Credentials come from ~/.netrc, and redirects do not send them to another
    host. A version is the ETag, or else the Last-Modified header as text."""

    def __init__(self, patience_seconds: float) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self.patience_seconds = patience_seconds
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": "MonkeyRay", "Accept-Encoding": "identity"})
        adapter = HTTPAdapter(pool_maxsize=_CONNECTIONS, pool_block=True)
        for start in ("https://", "http://"):
            self._session.mount(start, adapter)

    def read(self, place: Location, max_bytes: int | None) -> Blob:
        data = bytearray()
        with self._asked("GET", place) as answer:
            check_size(place, _size(answer) or 0, max_bytes)
            for piece in answer.iter_content(_PIECE_BYTES):
                data += piece
                check_size(place, len(data), max_bytes)
            return Blob(bytes(data), _version(answer))

    def stat(self, place: Location) -> Entry:
        with self._asked("HEAD", place) as answer:
            return Entry(str(place), _size(answer), _version(answer))

    def open(self, place: Location) -> IO[bytes]:
        size = with_retries(lambda: self.stat(place), self.patience_seconds).size_bytes
        if size is not None and size > _WHOLE_BYTES:
            return cast(IO[bytes], RangeFile(self, place))
        data = with_retries(lambda: self.read(place, None), self.patience_seconds).data
        return io.BytesIO(data)

    def get_tail(self, place: Location, size: int) -> tuple[bytes, int, str]:
        entry = self.stat(place)
        whole, version = entry.size_bytes or 0, entry.version or ""
        return self.get_range(place, max(0, whole - size), whole, version), whole, version

    def get_range(self, place: Location, start: int, end: int, version: str) -> bytes:
        with self._asked("GET", place, {"Range": f"bytes={start}-{end - 1}"}) as answer:
            check_version(place, _version(answer), version)
            if answer.status_code != 206:
                raise StorageError(
                    f"{place.bucket} serves {place} only as a whole: download it, and give its path"
                )
            return cast(bytes, answer.content)

    def write(self, place: Location, data: bytes, replacing: str | None) -> NoReturn:
        raise StorageError(
            f"{place} is on a web server, which is read only: write to another store"
        )

    def stage(self, place: Location) -> Path:
        self.write(place, b"", None)

    def publish(self, staged: Path, place: Location) -> None:
        self.write(place, b"", None)

    def delete(self, place: Location) -> None:
        self.write(place, b"", None)

    def exists(self, place: Location) -> bool:
        try:
            self.stat(place)
        except MissingError:
            return False
        return True

    def list(self, place: Location) -> Iterator[Entry]:
        try:
            yield with_retries(lambda: self.stat(place), self.patience_seconds)
        except MissingError:
            raise ConfigError(
                f"{place} cannot be listed, because it is on a web server: give a manifest that "
                "names each file"
            ) from None

    def filesystem(self, place: Location) -> tuple[pyarrow.fs.FileSystem, str]:
        raise ConfigError(f"{place} is on a web server, where nothing can be written")

    @contextlib.contextmanager
    def _asked(
        self, method: str, place: Location, headers: dict[str, str] | None = None
    ) -> Iterator[Any]:
        """Send a request; yields the response if its status is 200 or 206."""
        if place.split_member():
            # Servers are not sent what follows #, and would answer with the archive.
            raise MissingError(f"{place} does not exist")
        with (
            _http_errors(place),
            self._session.request(
                method,
                str(place),
                stream=True,
                timeout=(10, 30),
                allow_redirects=True,
                headers=headers,
            ) as answer,
        ):
            code = answer.status_code
            if code in (405, 501) and method == "HEAD":
                with self._asked("GET", place) as instead:
                    yield instead
                return
            said = f"{place.bucket} answers {code} for {place}"
            if code in _REFUSED:
                raise ForbiddenError(f"{said}: check the URI, and the credentials in ~/.netrc")
            if code in _PASSING or code >= 500:
                raise FaultError(
                    f"{said}: the server is overloaded or down, run the same command again later"
                )
            if code not in (200, 206):
                raise MissingError(f"{place} does not exist ({code})")
            yield answer


@contextlib.contextmanager
def _http_errors(place: Location) -> Iterator[None]:
    import requests

    try:
        yield
    except (requests.TooManyRedirects, requests.exceptions.InvalidSchema, ValueError) as error:
        # An address that no server can have, or a redirect to one. (InvalidURL is a ValueError.)
        raise MissingError(
            f"{place} is not a valid address, or redirects to none ({type(error).__name__})"
        ) from None
    except requests.exceptions.SSLError:
        raise FaultError(
            f"no secure connection to {place.bucket} for {place}: if its certificate is your own, "
            "name the file of its authority in REQUESTS_CA_BUNDLE"
        ) from None
    except requests.RequestException as error:
        raise FaultError(
            f"cannot reach {place.bucket} for {place} ({type(error).__name__}): check the URI and "
            "the network, and run the same command again"
        ) from None


def _size(answer: Any) -> int | None:
    size = answer.headers.get("Content-Length", "")
    return int(size) if size.isdigit() else None


def _version(answer: Any) -> str | None:
    etag: str = answer.headers.get("ETag", "").removeprefix("W/").strip('"')
    return etag or answer.headers.get("Last-Modified")
