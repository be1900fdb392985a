"""Who is at the other end: real sockets of real processes."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Iterator

import pytest

from als.mirror.peer import Holders, Peer, peer_of
from tests.harness.system import wait_until

CONNECT = "exec 3<>/dev/tcp/127.0.0.1/$0; echo >&3; read -u 3"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def connected(listener: socket.socket) -> socket.socket:
    """The next connection, after the client has said something."""
    assert select.select([listener], [], [], 20)[0]
    server, _ = listener.accept()
    server.settimeout(20)
    assert server.recv(1) == b"\n"
    return server


def owner(server: socket.socket) -> Peer | None:
    return peer_of(server.getsockname(), server.getpeername())


@pytest.mark.parametrize("uid", [0, 65534])
def test_the_owner_of_a_connection(as_root: None, listener: socket.socket, uid: int) -> None:
    command = ["/bin/bash", "-c", CONNECT, str(listener.getsockname()[1])]
    with subprocess.Popen(command, user=uid, group=uid, extra_groups=[], cwd="/"), connected(listener) as server:
        found = owner(server)
        assert found is not None
        assert found.uid == uid
        assert Holders().lives_here(found.inode)
        server.sendall(b"\n")


def test_many_connections_are_told_apart(as_root: None, listener: socket.socket) -> None:
    ends = [socket.create_connection(listener.getsockname()) for _ in range(50)]
    servers = {end.getsockname(): listener.accept()[0] for end in ends}
    for end in ends:
        found = owner(servers[end.getsockname()])
        assert found is not None
        assert (found.uid, found.inode) == (0, os.fstat(end.fileno()).st_ino)
    for each in (*ends, *servers.values()):
        each.close()


def test_who_has_closed_is_nobody(as_root: None, listener: socket.socket) -> None:
    """The kernel says uid 0 of a socket that was closed."""
    script = "exec 3<>/dev/tcp/127.0.0.1/$0; echo >&3"
    command = ["/bin/bash", "-c", script, str(listener.getsockname()[1])]
    with subprocess.Popen(command, user=65534, group=65534, extra_groups=[], cwd="/") as client, connected(listener) as server:
        client.wait(20)
        wait_until(lambda: owner(server) is None, "its end is known")
    with socket.create_connection(listener.getsockname()) as half, listener.accept()[0] as server:
        half.shutdown(socket.SHUT_WR)
        wait_until(lambda: owner(server) is None, "half closed is closed")


def test_root_of_a_container_is_not_root(as_root: None, listener: socket.socket) -> None:
    command = ["unshare", "--pid", "--fork", "/bin/bash", "-c", CONNECT, str(listener.getsockname()[1])]
    with subprocess.Popen(command), connected(listener) as server:
        found = owner(server)
        assert found is not None
        assert found.uid == 0
        assert not Holders().lives_here(found.inode)
        server.sendall(b"\n")


def test_no_such_connection(listener: socket.socket) -> None:
    assert peer_of(listener.getsockname(), ("127.0.0.1", 1)) is None
    assert peer_of(listener.getsockname(), listener.getsockname()) is None
    assert not Holders().lives_here(1)
