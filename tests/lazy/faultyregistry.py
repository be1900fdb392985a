"""A registry that serves blobs, by ranges or not, and does whatever a test wants to go wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Answer:
    """What is about to be answered; a fault changes it."""

    path: str
    start: int
    end: int
    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None
    """Close the connection after so many bytes of the body."""
    stall: int | None = None
    """After so many bytes of the body send no more until the registry is closed."""
    authorization: str = ""
    dead: bool = False
    """Close the connection without an answer."""


Fault = Callable[[Answer], None]


class Server(ThreadingHTTPServer):
    """One that threads serve, which nobody waits for."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are no news."""


@dataclass
class FaultyRegistry:
    """``ADDRESS/any/name`` serves `blobs` by digest; plain HTTP on a free port. A context manager.

    :param fault: called with each answer to a request for a blob before it is sent.
    """

    blobs: Mapping[str, bytes]
    fault: Fault | None = None
    ranged: bool = True
    token: str = ""
    """Where set, a token is wanted: ``bearer TOKEN``, and whoever asks gets the one of the moment."""
    log: list[tuple[int, int, int]] = field(default_factory=list)
    """Of each answer for a blob: first byte, end, status."""
    digests: list[str] = field(default_factory=list)
    """Of which blob each of them was."""

    def __post_init__(self) -> None:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                registry._answer(self)

            def log_message(self, *_: object) -> None:
                """Nothing on standard error."""

        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def asked_bytes(self) -> int:
        """The sum of what was asked for."""
        return sum(end - start for start, end, status in self.log if status in (200, 206))

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/token"):
            self._send(request, Answer(request.path, 0, 0, 200, {}, b'{"token": "%s"}' % self.token.encode()))
            return
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="http://{self.address}/token",service="s"'
            self._send(request, Answer(request.path, 0, 0, 401, {"WWW-Authenticate": challenge}, b""))
            return
        data = self.blobs.get(request.path.rpartition("/")[2])
        if data is None:
            self._send(request, Answer(request.path, 0, 0, 200 if request.path == "/v2/" else 404, {}, b""))
            return
        match = _RANGE.fullmatch(request.headers.get("Range") or "")
        start, end, status, headers = 0, len(data), 200, {}
        if match is not None and self.ranged:
            start, status = int(match[1]), 206
            end = min(int(match[2]) + 1, len(data)) if match[2] else len(data)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        answer = Answer(request.path, start, end, status, headers, data[start:end])
        with self._lock:
            if self.fault is not None:
                self.fault(answer)
            self.log.append((start, end, answer.status))
            self.digests.append(answer.path.rpartition("/")[2])
        self._send(request, answer)

    def _send(self, request: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.dead:
            request.close_connection = True
            return
        request.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        limit = min(each for each in (answer.cut, answer.stall, len(answer.body)) if each is not None)
        request.wfile.write(answer.body[:limit])
        request.wfile.flush()
        if answer.stall is not None:
            self._over.wait(60)
        request.close_connection = request.close_connection or limit < len(answer.body)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
