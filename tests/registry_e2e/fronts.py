"""What may stand between a client and a registry: a slow line that breaks, a server that passes requests on."""

from __future__ import annotations

import http.client
import select
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.registry.servers import Reply, Request

_PIECE = 16 << 10
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class Line:
    """A TCP line to a server, slower than the wire; what it leads to may change.

    :param upstream: ``HOST:PORT``.
    :param speed: bytes per second, of each connection, towards the client.
    """

    def __init__(self, upstream: str, speed: int) -> None:
        self.upstream = upstream
        self.carried = 0
        """Bytes that went to clients."""
        self._speed = speed
        self._ended = threading.Event()
        self._cuts = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def cut(self) -> None:
        """Every connection that there is breaks, whatever was still on its way."""
        self._cuts += 1

    def _accept(self) -> None:
        while not self._ended.is_set():
            if not select.select([self._server], [], [], 0.1)[0]:
                continue
            client, _ = self._server.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        host, _, port = self.upstream.rpartition(":")
        with client:
            try:
                with socket.create_connection((host, int(port)), 5) as upstream:
                    self._carry(client, upstream)
            except OSError:
                # Either end hung up, or there is nobody at the other one: the client sees its connection end.
                return

    def _carry(self, client: socket.socket, upstream: socket.socket) -> None:
        cuts = self._cuts
        while not self._ended.is_set() and cuts == self._cuts:
            for ready in select.select([client, upstream], [], [], 0.1)[0]:
                data = ready.recv(_PIECE)
                if not data:
                    return
                if ready is client:
                    upstream.sendall(data)
                    continue
                client.sendall(data)
                self.carried += len(data)
                self._ended.wait(len(data) / self._speed)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(10)
        self._server.close()


def passing_on(upstream: str) -> Callable[[Request], Reply]:
    """An answer to every request: that of another server."""

    def respond(request: Request) -> Reply:
        path = request.path
        if "://" in path:
            # As a proxy is asked: the whole URL.
            path = "/" + path.split("://", 1)[1].partition("/")[2]
        connection = http.client.HTTPConnection(upstream, timeout=20)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in ("host", "connection")}
            connection.request(request.method, path, request.body, headers)
            answer = connection.getresponse()
            body = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            return Reply(answer.status, body, kept)
        finally:
            connection.close()

    return respond
