"""Registries without TLS: a connection to them is made while they are asked whether they have it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from als.model.manifest import OCI_MANIFEST
from als.registry.client import RegistryClient
from als.registry.endpoint import Endpoint
from tests.registry.servers import HttpServer, Reply, Request

MakeClient = Callable[..., RegistryClient]
DOCUMENT = b'{"schemaVersion": 2}'


def manifest(_: Request) -> Reply:
    return Reply(200, DOCUMENT, {"Content-Type": OCI_MANIFEST})


def test_the_connection_is_there_when_it_shows_that_there_is_no_tls(make_client: MakeClient) -> None:
    with HttpServer(manifest) as server:
        client = make_client(server.endpoint())
        client.manifest("1")
        client.manifest("1")
        assert [request.port for request in server.seen] == server.greeted * 2


def test_a_greeting_that_is_not_answered(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("als.registry.session._GREETING_SECONDS", 0.05)
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        def serve() -> None:
            held: list[socket.socket] = []
            while not asked.is_set():
                connection, _ = silent.accept()
                held.append(connection)
                first = connection.recv(1000)
                if first.startswith(b"GET"):
                    asked.set()
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DOCUMENT) + DOCUMENT)
                elif not first.startswith(b"HEAD"):
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            for each in held:
                each.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert make_client(Endpoint(address, "team/app", insecure=True)).manifest("1").data == DOCUMENT
        thread.join(10)
        assert asked.is_set()
