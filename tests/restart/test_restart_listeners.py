"""Who connects while no daemon runs waits for the next one: the sockets outlive it."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from als.control.wire import NAME, PROTOCOL, Channel
from als.imagestore.lock import reading
from als.native.listeners import Listeners, place_of
from als.native.unixsocket import listen_at
from tests.conftest import CACHE
from tests.harness.als import AlsDaemon
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.kills import daemon_of
from tests.harness.ocilayout import TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.harness.system import wait_until

DEADLINE = 60.0


class Kept:
    """What a service manager would keep."""

    def __init__(self) -> None:
        self.descriptors: dict[str, int] = {}
        self.given: dict[str, int] = {}

    def held(self) -> Mapping[str, int]:
        """As the next process finds them: descriptors of its own."""
        self.given = {name: os.dup(descriptor) for name, descriptor in self.descriptors.items()}
        return self.given

    def hold(self, name: str, descriptor: int) -> None:
        self.drop(name)
        self.descriptors[name] = os.dup(descriptor)

    def drop(self, name: str) -> None:
        if name in self.descriptors:
            os.close(self.descriptors.pop(name))


@pytest.fixture
def kept() -> Iterator[Kept]:
    found = Kept()
    yield found
    for name in list(found.descriptors):
        found.drop(name)


def _listen(kept: Kept) -> int:
    """A port of 127.0.0.1 that a process listened on before it died."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        Listeners(kept).keep("mirror", str(port), listener)
    return port


def test_who_connects_in_between_is_answered_by_the_next(kept: Kept) -> None:
    port = _listen(kept)
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        listener = Listeners(kept).take("mirror", str(port))
        assert listener is not None
        with listener, listener.accept()[0] as connection:
            connection.sendall(b"x")
        assert client.recv(1) == b"x"
    assert len(kept.descriptors) == 1, "for the one after it"


def test_another_place_is_not_waited_at(kept: Kept) -> None:
    port = _listen(kept)
    assert Listeners(kept).take("mirror", "1") is None
    assert not kept.descriptors
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), DEADLINE)


def test_what_is_not_served_any_more_is_not_waited_for(kept: Kept) -> None:
    port = _listen(kept)
    Listeners(kept).forget("control")
    assert len(kept.descriptors) == 1, "of another kind"
    os.close(next(iter(kept.given.values())))
    Listeners(kept).forget("mirror")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), DEADLINE)


def test_what_does_not_listen_is_not_taken(kept: Kept) -> None:
    with socket.socket() as deaf, Path(os.devnull).open() as none:
        for descriptor in (deaf.fileno(), none.fileno()):
            kept.hold("mirror@1", descriptor)
            assert Listeners(kept).take("mirror", "1") is None
            assert not kept.descriptors


def test_a_unix_socket_whose_file_is_gone_is_made_anew(kept: Kept, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listen_at(path) as listener:
        Listeners(kept).keep("control", place_of(path), listener)
    taken = Listeners(kept).take("control", place_of(path))
    assert taken is not None
    taken.close()
    # A process that is not kept has replaced it.
    listen_at(path).close()
    assert Listeners(kept).take("control", place_of(path)) is None
    path.unlink()
    assert Listeners(kept).take("control", place_of(path)) is None


def test_without_a_keeper_nothing_is_kept() -> None:
    listeners = Listeners()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listeners.keep("mirror", "1", listener)
    assert listeners.take("mirror", "1") is None
    assert not listeners.kept


# -- the real daemon


@pytest.fixture(scope="module")
def modern(as_root: None, module_dir: Path) -> Iterator[Stack]:
    """podman 5.8, which needs the mirror for plain images, and a daemon that is kept."""
    try:
        binaries = binaries_of("forky", CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    base = Path(tempfile.mkdtemp(prefix="l", dir=module_dir))
    with RegistryServer(base / "registry") as registry, Stack(base, registry, binaries, keep=True) as stack:
        stack.podman("info")
        yield stack
        print(stack.als.log_text()[-6000:])


def _kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: _dead(process), "it is dead")


def _dead(process: int) -> bool:
    """Whether nothing of it is left, or no more than its exit status (proc(5))."""
    try:
        return Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def nobody_serves(als: AlsDaemon) -> Iterator[None]:
    """Within, the daemon is dead and nobody starts another one."""
    os.kill(als.pid, signal.SIGSTOP)
    try:
        daemon = als.serving_pid
        assert daemon_of(als.pid) == daemon
        _kill(daemon)
        yield
    finally:
        os.kill(als.pid, signal.SIGCONT)
    als.replaced(daemon, DEADLINE)


def _waiting_at_port(port: int) -> bool:
    """Whether somebody waits to be accepted (proc_net_tcp: a listening socket's receive queue)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    address, listens = f"0100007F:{port:04X}", "0A"
    return any(
        int(queues.partition(":")[2], 16) > 0
        for _, local, _, state, queues, *_ in lines
        if (local, state) == (address, listens)
    )


def _listed_layers(als: AlsDaemon) -> int:
    return (als.composefs_store / "overlay-layers" / "layers.json").read_text("utf-8").count('"id"')


def test_podman_pulls_through_the_mirror_while_the_daemon_starts_anew(modern: Stack, tmp_path: Path) -> None:
    images = ImageFactory(tmp_path / "oci")
    images.runnable("waits", [TarBuilder().file("name", b"waits").build()])
    reference = modern.registry.push(images.layout.name("waits"), "waits:1")
    als, before = modern.als, _listed_layers(modern.als)
    with ThreadPoolExecutor(1) as pool:
        with nobody_serves(als):
            pulled = pool.submit(modern.podman.pull, reference)
            wait_until(lambda: _waiting_at_port(modern.mirror_port) or pulled.done(), "it waits")
            assert not pulled.done()
        pulled.result(DEADLINE)
    assert _listed_layers(als) > before, "the next daemon answered, and not the registry"
    assert modern.podman.run(reference, "cat", "/name") == "waits"


def test_commands_wait_for_the_daemon(modern: Stack) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        with nobody_serves(modern.als):
            client.connect(str(modern.als.run / NAME))
        channel = Channel(client)
        hello = channel.receive(DEADLINE)
        assert hello is not None
        assert hello["protocol"] == PROTOCOL
        channel.send({"op": "status", "image": None})
        assert channel.receive(DEADLINE) is not None


def test_clients_that_hold_locks_are_answered(modern: Stack, tmp_path: Path) -> None:
    """podman holds this one while it looks for files of layers. A daemon that waited for it first would wait in vain."""
    images = ImageFactory(tmp_path / "oci")
    images.runnable("locked", [])
    als = modern.als
    als.cli("pull", "-q", modern.registry.push(images.layout.name("locked"), "locked:1"))
    daemon = als.serving_pid
    with reading(als.composefs_store / "overlay-layers" / "layers.lock", DEADLINE):
        _kill(daemon)
        os.statvfs(als.store)
        assert als.serving_pid == daemon, "the next one is not ready, for it waits for the lock"
    als.replaced(daemon, DEADLINE)


def test_when_the_keeper_ends_nobody_waits(modern: Stack) -> None:
    assert modern.als.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", modern.mirror_port), DEADLINE)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(modern.als.run / NAME))
    # Without a daemon commands do their work themselves, whatever was left in the folder.
    modern.als.cli("images")
    modern.als.start()
