"""Files on web servers, by https:// and http://, to read only."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from monkeyray.errors import (
    ConfigError,
    FaultError,
    ForbiddenError,
    MissingError,
    StorageError,
)
from monkeyray.storage.backends.protocol import Blob, Entry, check_size
from monkeyray.storage.location import Location
from monkeyray.storage.retries import with_retries

if TYPE_CHECKING:
    import pyarrow.fs

#: Connections of a process to one host.
_CONNECTIONS = 8
_PIECE_BYTES = 2**17

#: Statuses that deny access, and transient ones below 500.
_REFUSED = (401, 402, 403, 407, 451)
_PASSING = (408, 425, 429)


class HttpStore:
    """See protocol.Store. Credentials come from ~/.netrc, and redirects do not send them to another
    host. A version is the ETag, or else the Last-Modified header as text."""

    def __init__(self, patience_seconds: float) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self._patience_seconds = patience_seconds
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
        data = with_retries(lambda: self.read(place, None), self._patience_seconds).data
        return io.BytesIO(data)

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
            yield with_retries(lambda: self.stat(place), self._patience_seconds)
        except MissingError:
            raise ConfigError(
                f"{place} cannot be listed, because it is on a web server: give a manifest that "
                "names each file"
            ) from None

    def filesystem(self, place: Location) -> tuple[pyarrow.fs.FileSystem, str]:
        raise ConfigError(f"{place} is on a web server, where nothing can be written")

    @contextlib.contextmanager
    def _asked(self, method: str, place: Location) -> Iterator[Any]:
        """Send a request; yields the response if its status is 200."""
        with (
            _http_errors(place),
            self._session.request(
                method, str(place), stream=True, timeout=(10, 30), allow_redirects=True
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
            if code != 200:
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
