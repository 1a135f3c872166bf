"""Files on web servers."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import monkeyray.storage.backends.http
from monkeyray.errors import (
    ConfigError,
    FaultError,
    ForbiddenError,
    MissingError,
    StorageError,
    TooLargeError,
)
from monkeyray.images.decode import Limits
from monkeyray.images.listing import list_images
from monkeyray.runs.workers.fetch import fetch
from monkeyray.storage.backends.protocol import Entry
from monkeyray.storage.store import Storage

STORAGE = Storage(patience_seconds=1)
ETAG = 'W/"abc"'
DATE = "Mon, 02 Nov 2026 10:00:00 GMT"


class Server(ThreadingHTTPServer):
    """A web server that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.failing = 0
        self.open = self.most = 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.open += 1
        self.server.most = max(self.server.most, self.server.open)

    def finish(self) -> None:
        super().finish()
        self.server.open -= 1

    def do_GET(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization")))
        name = self.path.rpartition("/")[2]
        if self.server.failing:
            self.server.failing -= 1
            self.answer(503)
        elif name == "no-head" and self.command == "HEAD":
            self.answer(405)
        elif name == "elsewhere":
            self.answer(302, Location=f"http://localhost:{self.server.server_port}/a.jpg")
        elif name == "loop":
            self.answer(302, Location="/loop")
        elif name == "disk":
            self.answer(302, Location="file:///etc/passwd")
        elif name == "slow":
            time.sleep(0.05)
            self.answer(200, b"slow")
        elif name == "short":
            self.answer(200, b"short", **{"Content-Length": "100"})
            self.close_connection = True
        elif name == "dated":
            self.answer(200, b"dated", **{"Last-Modified": DATE})
        elif name == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nchunk\r\n2\r\ned\r\n0\r\n\r\n")
        elif name.isdigit():
            self.answer(int(name), b"words")
        elif self.path in self.server.files and name.endswith(".zip") and "Range" in self.headers:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.answer(206, self.server.files[self.path][first : last + 1], ETag=ETAG)
        elif self.path in self.server.files:
            self.answer(200, self.server.files[self.path], ETag=ETAG, **{"Last-Modified": DATE})
        else:
            self.answer(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[Server]:
    server = Server()
    server.files = {"/a.jpg": b"0123456789", "/a%20b%25.jpg?x=1": b"odd", "/dir/no-head": b"whole"}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_files_with_size_and_version(web: Server) -> None:
    blob = STORAGE.read(f"{web.url}/a.jpg", 10)
    assert (blob.data, blob.version) == (b"0123456789", "abc")
    assert STORAGE.stat(f"{web.url}/a.jpg") == Entry(f"{web.url}/a.jpg", 10, "abc")
    assert STORAGE.stat(f"{web.url}/dated").version == DATE
    assert STORAGE.read(f"{web.url}/chunked").data == b"chunked"
    assert STORAGE.stat(f"{web.url}/dir/no-head").size_bytes == 5
    # A URI is taken as it is, query and all; what cannot be sent is escaped.
    assert STORAGE.read(f"{web.url}/a%20b%25.jpg?x=1").data == b"odd"
    assert STORAGE.read(f"{web.url}/a b%25.jpg?x=1").data == b"odd"
    for name, limit in (("a.jpg", 9), ("chunked", 6)):
        with pytest.raises(TooLargeError, match=f"the limit is {limit}"):
            STORAGE.read(f"{web.url}/{name}", limit)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("none.jpg", MissingError, r"none\.jpg does not exist \(404\)"),
        ("410", MissingError, "does not exist"),
        ("204", MissingError, "does not exist"),
        ("401", ForbiddenError, "answers 401 .* ~/.netrc"),
        ("403", ForbiddenError, "answers 403"),
        ("429", FaultError, "answers 429 .*overloaded"),
        ("503", FaultError, "answers 503 .*overloaded"),
        ("loop", MissingError, "is not a valid address"),
        ("disk", MissingError, "is not a valid address"),
        ("short", FaultError, "cannot reach .* run the same command again"),
    ],
)
def test_responses_are_distinguished(
    web: Server, name: str, kind: type[StorageError], words: str
) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        STORAGE.read(f"{web.url}/{name}")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_servers_that_are_not_there(web: Server) -> None:
    with pytest.raises(FaultError, match=r"cannot reach 127\.0\.0\.1:1 "):
        STORAGE.read("http://127.0.0.1:1/a.jpg")
    with pytest.raises(FaultError, match="no secure connection"):
        STORAGE.read(f"{web.url.replace('http:', 'https:')}/a.jpg")
    for uri in ("http://a b/c.jpg", "http://h:port/c.jpg", "https://.../c.jpg"):
        assert fetch(STORAGE, uri, None, Limits()).status == "missing"


def test_transient_faults_are_retried(web: Server) -> None:
    web.failing = 2
    assert Storage().read(f"{web.url}/a.jpg").data == b"0123456789"
    assert len(web.asked) == 3


def test_credentials_stay_with_their_host(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert STORAGE.read(f"{web.url}/elsewhere").data == b"0123456789"
    (first, second) = web.asked
    assert first[1:] == ("/elsewhere", "Basic bWU6aHVudGVyMg==")
    assert second[1:] == ("/a.jpg", None)


def test_connections_per_host_are_limited(web: Server) -> None:
    storage = Storage()
    with ThreadPoolExecutor(32) as pool:
        read = list(pool.map(lambda _: storage.read(f"{web.url}/slow").data, range(64)))
    assert read == [b"slow"] * 64
    assert web.most <= 8


def test_manifests_of_and_on_web_servers(web: Server, tmp_path: Path) -> None:
    uris = [f"{web.url}/a.jpg", f"{web.url}/403"]
    sink = io.BytesIO()
    pq.write_table(pa.table({"uri": uris}), sink)
    web.files["/list.parquet"] = sink.getvalue()
    web.files["/list.csv"] = "\n".join(["uri", *uris]).encode()
    (tmp_path / "list.csv").write_bytes(web.files["/list.csv"])
    for place in (str(tmp_path / "list.csv"), f"{web.url}/list.csv", f"{web.url}/list.parquet"):
        (table,) = list_images(place, STORAGE, Counter())
        assert table["uri"].to_pylist() == uris
    found: list[Any] = [fetch(STORAGE, uri, None, Limits()) for uri in uris]
    assert [item.status for item in found] == ["ok", "forbidden"]
    (single,) = list_images(uris[0], STORAGE, Counter())
    assert single["size_bytes"].to_pylist() == [10]


def test_writing_to_http_is_refused(web: Server) -> None:
    with pytest.raises(ConfigError, match=r"cannot be listed.* give a manifest"):
        list(STORAGE.list(f"{web.url}/photos"))
    with pytest.raises(StorageError, match="web server, which is read only"):
        STORAGE.check_conditions(f"{web.url}/out")
    assert not STORAGE.exists(f"{web.url}/photos")


def test_members_of_a_large_archive_are_read_in_ranges(
    web: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.jpg", b"first")
        archive.writestr("b.jpg", b"second" * 100_000)
    web.files["/season.zip"] = web.files["/no-ranges.tar"] = sink.getvalue()
    monkeypatch.setattr(monkeyray.storage.backends.http, "_WHOLE_BYTES", 1000)
    uri = f"{web.url}/season.zip"
    table = pa.concat_tables(list_images(uri, STORAGE, Counter()))
    assert table["uri"].to_pylist() == [f"{uri}#a.jpg", f"{uri}#b.jpg"]
    assert STORAGE.read(f"{uri}#a.jpg").data == b"first"
    with pytest.raises(StorageError, match="only as a whole: download it, and give its path"):
        list(list_images(f"{web.url}/no-ranges.tar", STORAGE, Counter()))
