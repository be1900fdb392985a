"""The places where metrics are read: one HTTP server each, whose threads are few and have a deadline."""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector

from als.errors import ConfigError
from als.metrics.errors import counted
from als.metrics.state import StateCollector
from als.native.unixsocket import listen_at
from als.service import Service

log = logging.getLogger(__name__)

SOCKET = "metrics.sock"
_ADDRESS = "127.0.0.1"
_AT_ONCE = 8
_REQUEST_SECONDS = 10.0
_STOP_POLL_SECONDS = 0.1


class _Handler(MetricsHandler):
    timeout = _REQUEST_SECONDS


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """On a socket that listens already, of whichever family."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handler: type) -> None:
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        self.address_family = listener.family
        super().__init__((_ADDRESS, 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()
        # A name for who asks, which a unix socket has not.
        return connection, address or (SOCKET, 0)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a request for metrics was not answered", exc_info=True)


@contextmanager
def serving(service: Service, registry: CollectorRegistry) -> Iterator[None]:
    """Metrics can be read within, and errors are counted. A place that cannot be had is missing, and the log says so."""
    registry.register(StateCollector(service))
    ProcessCollector(registry=registry)
    handler = _Handler.factory(registry)
    with ExitStack() as stack:
        stack.enter_context(counted(registry))
        path = service.config.run / SOCKET
        places: list[tuple[str, Callable[[], socket.socket]]] = [(str(path), lambda: listen_at(path))]
        if service.config.metrics_port:
            port = service.config.metrics_port
            places.append((f"{_ADDRESS}:{port}", lambda: socket.create_server((_ADDRESS, port))))
        for where, listen in places:
            try:
                listener = listen()
            except OSError as error:
                log.error("no metrics: %s", ConfigError(f"cannot listen: {error.strerror}", where=where))
                continue
            stack.enter_context(_answering(_Server(listener, handler), where))
        stack.callback(path.unlink, missing_ok=True)
        yield


@contextmanager
def _answering(server: _Server, where: str) -> Iterator[None]:
    with server:
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": _STOP_POLL_SECONDS}, name=f"metrics at {where}", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
