"""Two hundred requests at once: none fails, and the daemon's memory stays bounded."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.images import ImageFactory
from tests.harness.memory import descendants, proportional_bytes
from tests.harness.ocilayout import TarBuilder
from tests.harness.podman import Binaries
from tests.harness.registry import RegistryServer
from tests.mirror.asking import Asker
from tests.mirror.conftest import MirrorStack

PARALLEL = 200
BLOB_BYTES = 16 << 20
MEMORY = 150 << 20
"""Of the daemon and its workers together, more than it takes at rest: a hundred of those blobs are ten times as much."""


class DaemonMemory(threading.Thread):
    """The most that a process and those it started took, looked at every 0.05 s."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.before = self.peak = self._now()
        self._end = threading.Event()

    def _now(self) -> int:
        return sum(proportional_bytes(pid) for pid in (self.pid, *descendants(self.pid)))

    def run(self) -> None:
        while not self._end.wait(0.05):
            self.peak = max(self.peak, self._now())

    def __enter__(self) -> DaemonMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


@pytest.fixture(scope="module")
def stack(as_root: None, module_dir: Path, registry_server: RegistryServer) -> Iterator[MirrorStack]:
    with MirrorStack(module_dir / "s", registry_server, Binaries()) as running:
        yield running


def test_two_hundred_at_once(stack: MirrorStack, images: ImageFactory) -> None:
    noise = random.Random(5)
    tags = [f"load-{n}" for n in range(10)]
    for tag in tags:
        images.scratch(tag, [TarBuilder().file(tag, noise.randbytes(100_000)).build() for _ in range(3)])
        stack.registry.push(images.layout.name(tag), f"load/app:{tag}")
    blob = images.layout.add_layer(TarBuilder().file("large", noise.randbytes(BLOB_BYTES)).build())
    images.layout.add_image("large", [blob])
    stack.registry.push(images.layout.name("large"), "load/app:large")
    ask = Asker(stack.port, f"{stack.registry.address.replace(':', '__')}/load/app")
    assert ask(f"manifests/{tags[0]}").status == 200

    def request(number: int) -> tuple[int, str]:
        if number % 2:
            got = ask(f"manifests/{tags[number // 2 % len(tags)]}")
            return got.status, got.headers["docker-content-digest"].removeprefix(
                f"sha256:{hashlib.sha256(got.body).hexdigest()}"
            )
        got = ask(f"blobs/{blob.digest}")
        return got.status, blob.digest.removeprefix(f"sha256:{hashlib.sha256(got.body).hexdigest()}")

    with DaemonMemory(stack.als.pid) as memory, ThreadPoolExecutor(PARALLEL) as pool:
        begun = time.monotonic()
        answers = set(pool.map(request, range(PARALLEL), timeout=120))
        seconds = time.monotonic() - begun
    assert answers == {(200, "")}, "each was answered, with the right bytes"
    grown = memory.peak - memory.before
    assert grown < MEMORY, f"{grown >> 20} MiB more than at rest"
    print(f"\n{PARALLEL} requests in {seconds:.2f} s; {memory.before >> 20} MiB at rest, {memory.peak >> 20} MiB at most")
    assert "Traceback" not in stack.als.log_text()


def test_slow_readers_keep_nobody_waiting(stack: MirrorStack, images: ImageFactory) -> None:
    """Clients that stop reading hold one connection each, and little else."""
    digest = images.layout.add_layer(TarBuilder().file("slow", random.Random(6).randbytes(BLOB_BYTES)).build())
    images.layout.add_image("slow", [digest])
    stack.registry.push(images.layout.name("slow"), "load/slow:1")
    path = f"{stack.registry.address.replace(':', '__')}/load/slow"
    with ExitStack() as held, DaemonMemory(stack.als.pid) as memory:
        for _ in range(40):
            client = held.enter_context(socket.create_connection(("127.0.0.1", stack.port)))
            client.sendall(f"GET /v2/{path}/blobs/{digest.digest} HTTP/1.1\r\nHost: 127.0.0.1:{stack.port}\r\n\r\n".encode())
            assert client.recv(1) == b"H"
        assert Asker(stack.port, path)("manifests/1").status == 200
    assert memory.peak - memory.before < MEMORY
