"""Registries that make trouble: one that wants a password, one whose answers break off."""

from __future__ import annotations

import base64
from http.server import BaseHTTPRequestHandler

from tests.harness.gated import GatedRegistry
from tests.harness.ocilayout import Layout

USER = "user:let-me-in"
ENCODED = base64.b64encode(USER.encode()).decode()


class TroubledRegistry(GatedRegistry):
    """A :class:`GatedRegistry` that can be told to misbehave."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.private = False
        """Whether it answers only with `USER`'s password."""
        self.status = 0
        """What it says to everything; 0: what is right."""
        self.cut: set[str] = set()
        """Digests of blobs of which it sends half and hangs up."""
        self.allowed = 0
        """How many requests it answered with a password."""

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        digest = request.path.rpartition("/")[2]
        if self.status:
            self._say(request, self.status)
        elif self.private and request.headers.get("Authorization") != f"Basic {ENCODED}":
            self.asked.append(request.path)
            self._say(request, 401, {"WWW-Authenticate": 'Basic realm="here"'})
        elif digest in self.cut and "/blobs/" in request.path:
            self.asked.append(request.path)
            data = self._layout.blob(digest).read_bytes()
            request.send_response(200)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data[: len(data) // 2])
            request.close_connection = True
        else:
            self.allowed += self.private
            super()._answer(request)

    @staticmethod
    def _say(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()

    def stop(self) -> None:
        """Nobody listens any more."""
        self._server.shutdown()
        self._server.server_close()
