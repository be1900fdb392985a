"""A registry that serves an OCI layout and stops before any blob it was told to hold back."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.harness.ocilayout import MANIFEST, REF_NAME, Layout


class GatedRegistry:
    """Serves every image of a layout as ``ADDRESS/any/name:TAG``; plain HTTP on a free port. A context manager."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._gates: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        """The path of every request."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._answer(self)

            def log_message(self, *_: object) -> None:
                """Nothing on standard error."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def hold(self, digest: str) -> threading.Event:
        """Send only the first half of this blob until the event is set."""
        return self._gates.setdefault(digest, threading.Event())

    def blobs_asked(self) -> list[str]:
        """The digests of the blobs that were asked for, in order."""
        return [path.rpartition("/")[2] for path in self.asked if "/blobs/" in path]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        kind, _, name = request.path.rpartition("/")
        manifests = json.loads((self._layout.folder / "index.json").read_bytes())["manifests"]
        tags = {entry["annotations"][REF_NAME]: entry["digest"] for entry in manifests}
        digest = tags.get(name, name)
        if not digest.startswith("sha256:") or not self._layout.blob(digest).exists():
            request.send_response(200 if request.path == "/v2/" else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        data = self._layout.blob(digest).read_bytes()
        request.send_response(200)
        is_manifest = kind.endswith("/manifests")
        media_type = json.loads(data).get("mediaType", MANIFEST) if is_manifest else "application/octet-stream"
        request.send_header("Content-Type", media_type)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        gate = self._gates.get(digest)
        if gate is not None:
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            gate.wait(60)
            data = data[len(data) // 2 :]
        request.wfile.write(data)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for gate in self._gates.values():
            gate.set()
        self._server.shutdown()
        self._server.server_close()
