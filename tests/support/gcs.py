"""A fake of Google Cloud Storage: generations and preconditions as Google documents them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_PAGE = 3


class FakeGoogle(ThreadingHTTPServer):
    """A server with the bucket `photos`. `lost`: how many responses to PUTs to drop after carrying
    them out. `ignoring`: whether to ignore preconditions. `refusing`: the status to answer every
    GET with."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.generation = 1
        self.lost = 0
        self.ignoring = False
        self.refusing: int | None = None
        self.lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeGoogle

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if self.server.refusing:
            self._refuse(self.server.refusing, "Refused")
        elif url.path == "/storage/v1/b/photos/o":
            self._list({name: values[0] for name, values in parse_qs(url.query).items()})
        elif (key := self._key()) is not None and (found := self.server.objects.get(key)):
            data, generation = found
            start, _, end = (
                self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
            )
            whole = len(data)
            part = data[int(start) : int(end or whole) + 1]
            ranged = {"Content-Range": f"bytes {start}-{int(start) + len(part) - 1}/{whole}"}
            given = "range" in self.headers
            self._answer(206 if given else 200, part, generation, ranged if given else {})
        elif key is not None:
            self._refuse(404, "NoSuchKey")
        else:
            self._refuse(404, "NoSuchBucket")

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        key, wanted = self._key(), self.headers.get("x-goog-if-generation-match")
        if key is None:
            self._refuse(404, "NoSuchBucket")
            return
        with self.server.lock:
            _, there = self.server.objects.get(key, (b"", 0))
            if wanted is not None and int(wanted) != there and not self.server.ignoring:
                self._refuse(412, "PreconditionFailed")
                return
            self.server.generation += 1
            generation = self.server.generation
            self.server.objects[key] = (data, generation)
            self.server.lost -= 1
            if self.server.lost >= 0:
                self.close_connection = True
                return
        self._answer(200, b"", generation)

    def do_DELETE(self) -> None:
        if self.server.objects.pop(self._key() or "", None) is None:
            self._refuse(404, "NoSuchKey")
        else:
            self._answer(204, b"", 0)

    def _key(self) -> str | None:
        path = unquote(urlsplit(self.path).path)
        return path.removeprefix("/photos/") if path.startswith("/photos/") else None

    def _list(self, query: dict[str, str]) -> None:
        names = sorted(n for n in self.server.objects if n.startswith(query.get("prefix", "")))
        names = [name for name in names if name >= query.get("pageToken", "")]
        items = []
        for name in names[:_PAGE]:
            data, generation = self.server.objects[name]
            items.append({"name": name, "size": str(len(data)), "generation": str(generation)})
        content: dict[str, object] = {"items": items} if items else {}
        if names[_PAGE:]:
            content["nextPageToken"] = names[_PAGE]
        self._answer(200, json.dumps(content).encode(), 0)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode(), 0)

    def _answer(
        self, status: int, body: bytes, generation: int, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if generation:
            self.send_header("x-goog-generation", str(generation))
            self.send_header("ETag", f'"etag-{generation}"')
            self.send_header("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def start_google() -> Iterator[FakeGoogle]:
    """The fake, listening on loopback."""
    server = FakeGoogle()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
