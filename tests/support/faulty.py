"""A proxy in front of an S3 server that does what stores and networks do on a bad day."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO, Literal, get_args
from urllib.parse import unquote, urlsplit

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest

#: What may happen to a request. `drop` closes the connection before the server hears of it, `lose`
#: after the server has done what it asked for.
Kind = Literal["slow_down", "internal_error", "cut", "delay", "drop", "lose"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_BLOCK = 1 << 16


class _GoneError(Exception):
    """One of the two sides has closed the connection."""


@dataclass(frozen=True)
class _Message:
    """A request or an answer: its head and body, byte for byte as they came."""

    start: str
    head: bytes
    headers: dict[str, str]
    body: bytes = b""

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def path(self) -> str:
        return unquote(self.start.split(" ")[1].partition("?")[0])

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"

    @property
    def gets_object(self) -> bool:
        return self.method == "GET" and "/" in self.path.strip("/")


class FaultyProxy:
    """Forwards HTTP/1.1 to a server, and disturbs it as it is told to.

    Requests pass byte for byte, with the Host that the client has signed. Everything may be
    changed at any time and from any thread.

    `rate`: the share of requests to disturb, drawn with `seed`, each by one of the `kinds`.
    `latency_seconds`: how long each request waits before it is forwarded.
    """

    def __init__(
        self,
        target_url: str,
        *,
        rate: float = 0.0,
        kinds: Iterable[Kind] = KINDS,
        seed: int = 0,
        delay_seconds: float = 0.2,
        latency_seconds: float = 0.0,
    ) -> None:
        target = urlsplit(target_url)
        assert target.hostname
        self._target = (target.hostname, target.port or 80)
        self.rate = rate
        self.kinds = tuple(kinds)
        self.delay_seconds = delay_seconds
        self.latency_seconds = latency_seconds
        self.requests = 0
        self.sent_bytes = 0
        self.disturbed: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._deck: list[Kind] = []
        self._lock = threading.RLock()
        self._answer: tuple[str, int, re.Pattern[str] | None] | None = None
        self._next: list[tuple[Kind, re.Pattern[str]]] = []
        self._watches: list[_Watch] = []
        self._ignored: str | None = None
        self._open: set[socket.socket] = set()
        self._running = threading.Event()
        self._closed = False
        # By its number, because a port that the system chose is given back when listening ends.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(address)
        self.url = f"http://127.0.0.1:{address[1]}"

    def __enter__(self) -> FaultyProxy:
        self.resume()
        threading.Thread(target=self._accept, daemon=True, name="faulty").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.pause()
        self._running.set()
        self._listener.close()

    # -- what it does --------------------------------------------------------------------------

    def disturb(self, rate: float, kinds: Iterable[Kind] = KINDS) -> None:
        """Disturb this share of the requests from now on."""
        with self._lock:
            self.rate, self.kinds = rate, tuple(kinds)

    def disturb_next(self, kind: Kind, pattern: str) -> None:
        """Disturb the next request whose "METHOD /path" matches. Calls add up."""
        with self._lock:
            self._next.append((kind, re.compile(pattern)))

    def answer_all(self, code: str, status: int, objects: str | None = None) -> None:
        """Answer every request with an S3 error from now on, and ask the server nothing.

        `objects`: a pattern; then only GETs of objects whose path matches are answered so.
        """
        with self._lock:
            self._answer = (code, status, re.compile(objects) if objects else None)

    def ignore(self, header: str) -> None:
        """Drop a header from every later request, as gateways that do not know it do."""
        self._ignored = header

    def heal(self) -> None:
        """Disturb nothing and forward everything from now on."""
        with self._lock:
            self.rate, self._answer, self._ignored = 0.0, None, None
            self._next.clear()
            self._watches.clear()
        self.resume()

    def pause(self) -> None:
        """Refuse connections and end those that are open, as a server that is gone."""
        with self._lock:
            self._running.clear()
            # On Linux this ends the listening and keeps the port.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def resume(self) -> None:
        """Take connections again."""
        with self._lock:
            if not self._closed and not self._running.is_set():
                self._listener.listen(128)
                self._running.set()

    def after_gets(self, number: int, objects: str, action: Callable[[], None]) -> None:
        """Call `action` once, when that many GETs of objects whose path matches have come and the
        next one comes, before it is looked at."""
        with self._lock:
            self._watches.append(_Watch(number, re.compile(objects), action))

    # -- connections ---------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:  # paused
                self._running.wait()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=[client], daemon=True, name="faulty").start()

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            self._keep(client)
            reader = client.makefile("rb")
            answers: BinaryIO | None = None
            while True:
                request = _read(reader, client)
                if self.latency_seconds:
                    time.sleep(self.latency_seconds)
                kind, error = self._decide(request)
                if error is not None:
                    client.sendall(_error(request, *error))
                    continue
                if kind == "drop":
                    return
                if kind == "delay":
                    time.sleep(self.delay_seconds)
                if server is None or answers is None:
                    server = socket.create_connection(self._target)
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._keep(server)
                    answers = server.makefile("rb")
                if self._ignored in request.headers:
                    request = _signed_without(request, self._ignored)
                server.sendall(request.head + request.body)
                answer = _read(answers, method=request.method)
                if kind == "lose" or (kind == "cut" and not answer.body):
                    return
                if kind == "cut":
                    client.sendall(answer.head + answer.body[: len(answer.body) // 2])
                    return
                client.sendall(answer.head + answer.body)
                with self._lock:
                    self.sent_bytes += len(answer.body)
                if answer.closes or request.closes:
                    return
        except (OSError, _GoneError):
            pass
        finally:
            for connection in (client, server):
                if connection is not None:
                    self._end(connection)

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
            if not self._running.is_set():
                raise _GoneError

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)
        # A reader may hold the descriptor open, so that closing alone would tell nobody.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _decide(self, request: _Message) -> tuple[Kind | None, tuple[str, int] | None]:
        """What happens to a request: a kind of disturbance, or an error's code and status."""
        with self._lock:
            due = [watch for watch in self._watches if watch.is_due(request)]
            self._watches = [watch for watch in self._watches if watch not in due]
        for watch in due:
            watch.action()
        with self._lock:
            self.requests += 1
            if self._answer is not None:
                code, status, objects = self._answer
                if objects is None or (request.gets_object and objects.search(request.path)):
                    self.disturbed[code] += 1
                    return None, (code, status)
            kind = self._draw(f"{request.method} {request.path}")
            if kind is None:
                return None, None
            self.disturbed[kind] += 1
        if kind == "slow_down":
            return None, ("SlowDown", 503)
        if kind == "internal_error":
            return None, ("InternalError", 500)
        return kind, None

    def _draw(self, line: str) -> Kind | None:
        for planned in self._next:
            if planned[1].search(line):
                self._next.remove(planned)
                return planned[0]
        if self._random.random() >= self.rate:
            return None
        # Dealt like cards, so that few disturbances are of all kinds too.
        self._deck = [kind for kind in self._deck if kind in self.kinds]
        if not self._deck:
            self._deck = self._random.sample(self.kinds, len(self.kinds))
        return self._deck.pop()


@dataclass(eq=False)
class _Watch:
    left: int
    objects: re.Pattern[str]
    action: Callable[[], None]

    def is_due(self, request: _Message) -> bool:
        if not (request.gets_object and self.objects.search(request.path)):
            return False
        self.left -= 1
        return self.left < 0


def _signed_without(request: _Message, header: str) -> _Message:
    """The request without a header, which its signature covered, signed with the tests' account."""
    method, path, version = request.start.split(" ")
    kept = {
        name: value
        for name, value in request.headers.items()
        if not name.startswith("x-amz-") and name not in (header, "authorization", "expect")
    }
    again = AWSRequest(method, f"http://{kept['host']}{path}", data=request.body, headers=kept)
    keys = boto3.session.Session().get_credentials().get_frozen_credentials()
    S3SigV4Auth(keys, "s3", "us-east-1").add_auth(again)
    headers = "".join(f"{name}: {value}\r\n" for name, value in again.headers.items())
    head = f"{method} {path} {version}\r\n{headers}\r\n"
    return _Message(request.start, head.encode(), kept, request.body)


def _error(request: _Message, code: str, status: int) -> bytes:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>A faulty proxy says {code}.</Message>"
        "<RequestId>faulty</RequestId></Error>"
    ).encode()
    head = (
        f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    return head if request.method == "HEAD" else head + body


def _read(
    reader: BinaryIO, client: socket.socket | None = None, method: str | None = None
) -> _Message:
    """One message. `client`: who sends the request; `method`: that of the request, for an answer.

    Raises _GoneError when the other side ends before the message does.
    """
    while True:
        lines = [_line(reader)]
        while lines[-1] not in (b"\r\n", b"\n"):
            lines.append(_line(reader))
        pairs = (line.decode("latin-1").partition(":") for line in lines[1:-1])
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        message = _Message(lines[0].decode("latin-1").rstrip(), b"".join(lines), headers)
        if method is None or message.status >= 200:
            break  # else it was 100 Continue, which the client has from us
    if client is not None and headers.get("expect", "").lower() == "100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    if method == "HEAD" or (method is not None and message.status in (204, 304)):
        pass
    elif headers.get("transfer-encoding", "").lower() == "chunked":
        body = _chunks(reader)
    elif "content-length" in headers:
        body = _exactly(reader, int(headers["content-length"]))
    elif method is not None:
        body = reader.read()
    return _Message(message.start, message.head, headers, body)


def _line(reader: BinaryIO) -> bytes:
    line = reader.readline(_BLOCK)
    if not line.endswith(b"\n"):
        raise _GoneError
    return line


def _exactly(reader: BinaryIO, size: int) -> bytes:
    data = reader.read(size)
    if len(data) != size:
        raise _GoneError
    return data


def _chunks(reader: BinaryIO) -> bytes:
    """A chunked body with its framing."""
    pieces = []
    while True:
        line = _line(reader)
        size = int(line.split(b";")[0], 16)
        pieces += [line, _exactly(reader, size)]
        pieces.append(_line(reader))
        if size == 0:
            while pieces[-1] not in (b"\r\n", b"\n"):  # trailers
                pieces.append(_line(reader))
            return b"".join(pieces)


if __name__ == "__main__":
    import sys

    with FaultyProxy(sys.argv[1], latency_seconds=float(sys.argv[2])) as slow:
        print(slow.url, flush=True)
        threading.Event().wait()
