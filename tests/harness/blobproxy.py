"""What stands before a real registry: it counts what is asked of blobs, holds bytes back, and spoils answers if it is told to.

Everything but the blobs passes as it is. It can end and begin again at the same address, as a registry does that is restarted.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Self

from tests.lazy.faultyregistry import Answer, Fault, Server

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_PATIENCE_SECONDS = 120.0
_PIECE = 16 << 10


@dataclass
class Served:
    """One answer with bytes of a blob."""

    digest: str
    start: int
    end: int
    status: int
    sent: int = 0
    """Bytes of the body that were really sent."""


class Hold:
    """Bytes of a blob that do not come for now."""

    def __init__(self, digest: str, start: int, end: int) -> None:
        self.digest = digest
        self.start = start
        self.end = end
        self.waiting = 0
        """Answers that wait here."""
        self._over = threading.Event()
        self._cut = False

    def open(self) -> None:
        """Let them come."""
        self._over.set()

    def cut(self) -> None:
        """Break the connections that wait for them; those who ask from now on get them."""
        self._cut = True
        self._over.set()

    def pass_by(self, start: int, end: int) -> bool:
        """Wait if these bytes are held; False: the connection is to be broken."""
        if self._over.is_set() or start >= self.end or end <= self.start:
            return True
        self.waiting += 1
        self._over.wait(_PATIENCE_SECONDS)
        self.waiting -= 1
        return not self._cut


class BlobProxy:
    """``ADDRESS/name:tag`` is the registry's image of that name. Plain HTTP; a context manager.

    :param target: ``HOST:PORT`` of the registry.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.fault: Fault | None = None
        """Called with each answer to a GET of a blob before it is sent."""
        self.token = ""
        """Where set, a token is wanted, and whoever asks for one gets the one of the moment."""
        self.served: list[Served] = []
        self.asked = 0
        """All requests, of whatever kind."""
        self._holds: list[Hold] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._port = 0
        self._server: Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def hold(self, digest: str, start: int = 0, end: int = 1 << 62) -> Hold:
        """Send no byte of a blob between two offsets, nor what goes in one piece with it, until it is opened."""
        hold = Hold(digest, start, end)
        self._holds.append(hold)
        return hold

    def asked_bytes(self, *digests: str) -> int:
        """The sum of what was asked of these blobs, or of all."""
        return sum(each.end - each.start for each in self.of(*digests) if each.status in (200, 206))

    def sent_bytes(self, *digests: str) -> int:
        """The sum of what was sent of them."""
        return sum(each.sent for each in self.of(*digests) if each.status in (200, 206))

    def of(self, *digests: str) -> list[Served]:
        """The answers for these blobs, or for all."""
        with self._lock:
            return [each for each in self.served if not digests or each.digest in digests]

    # -- serving

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        if self._server is None:
            # On a connection that is older than the end of the proxy.
            request.close_connection = True
            return
        self.asked += 1
        if request.path.startswith("/token"):
            self._send(request, Answer(request.path, 0, 0, 200, {}, b'{"token": "%s"}' % self.token.encode()), None)
            return
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="http://{self.address}/token",service="s"'
            self._send(request, Answer(request.path, 0, 0, 401, {"WWW-Authenticate": challenge}, b""), None)
            return
        answer, served = self._ask(request)
        if served is not None:
            with self._lock:
                if self.fault is not None:
                    self.fault(answer)
                served.status = answer.status
                self.served.append(served)
        self._send(request, answer, served)

    def _ask(self, request: BaseHTTPRequestHandler) -> tuple[Answer, Served | None]:
        """The registry's own answer; with what of a blob it has, if that is what was asked for."""
        connection = http.client.HTTPConnection(self.target, timeout=30)
        try:
            wanted = {name: value for name in ("Accept", "Range") if (value := request.headers.get(name)) is not None}
            connection.request(request.command, request.path, headers=wanted)
            reply = connection.getresponse()
            body = reply.read()
            headers = {name: value for name, value in reply.getheaders() if name.lower() not in _HOP_BY_HOP}
            if request.command == "HEAD":
                headers["Content-Length"] = reply.getheader("Content-Length") or "0"
        finally:
            connection.close()
        start = 0
        if reply.status == 206:
            start = int((reply.getheader("Content-Range") or "").removeprefix("bytes ").partition("-")[0])
        answer = Answer(request.path, start, start + len(body), reply.status, headers, body)
        digest = request.path.rpartition("/")[2]
        if request.command != "GET" or "/blobs/sha256:" not in request.path:
            return answer, None
        return answer, Served(digest, answer.start, answer.end, answer.status)

    def _send(self, request: BaseHTTPRequestHandler, answer: Answer, served: Served | None) -> None:
        if answer.dead:
            request.close_connection = True
            return
        request.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        limit = min(each for each in (answer.cut, answer.stall, len(answer.body)) if each is not None)
        for begin in range(0, limit, _PIECE):
            piece = answer.body[begin : min(begin + _PIECE, limit)]
            at = answer.start + begin
            passed = served is None or self._passed(served.digest, at, at + len(piece))
            if self._over.is_set() or not passed:
                request.close_connection = True
                return
            request.wfile.write(piece)
            if served is not None:
                served.sent += len(piece)
        request.wfile.flush()
        if answer.stall is not None:
            self._over.wait(_PATIENCE_SECONDS)
        request.close_connection = request.close_connection or limit < len(answer.body)

    def _passed(self, digest: str, start: int, end: int) -> bool:
        return all(hold.pass_by(start, end) for hold in self._holds if hold.digest == digest)

    # -- life

    def start(self) -> Self:
        """Listen; at the address that it had before, if it had one."""
        self._over = threading.Event()
        self._server = Server(("127.0.0.1", self._port), _handler(self.answer))
        self._port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Listen no more; what was held back never comes."""
        self._over.set()
        for hold in self._holds:
            hold.cut()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _handler(answer: Callable[[BaseHTTPRequestHandler], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            answer(self)

        def do_HEAD(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            """Nothing on standard error."""

    return Handler
