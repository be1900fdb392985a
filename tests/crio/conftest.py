"""One registry and one folder of images for all CRI-O tests; per module a store and a CRI-O of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.als import AlsDaemon
from tests.harness.crio import Crio, CrioStorage
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import TarBuilder
from tests.harness.registry import RegistryServer
from tests.harness.system import free_port


class Node:
    """A store and a CRI-O that uses it, as on a Kubernetes node."""

    def __init__(self, base: Path, tools: Path, registry: RegistryServer, pause: str) -> None:
        self.registry = registry
        self.mirror_port = free_port()
        self.als = AlsDaemon(base, mirror_port=self.mirror_port)
        self.image_store = self.als.composefs_store
        self.crio = Crio(base / "c", tools, CrioStorage((self.image_store,), insecure=(registry.address,)), pause)
        self.als.environment.update(self.crio.environment)
        self.pause_layers: list[str] = []
        """DiffIDs of the one image that is not to come from the store: CRI-O pulls it for itself."""

    def restart(self, storage: CrioStorage) -> None:
        """Start CRI-O anew with other settings."""
        self.crio.stop()
        self.crio.configure(storage)
        self.crio.start()

    def blobs_since(self, count: int) -> list[str]:
        """Digests of the blobs that the registry gave out after its first `count` requests."""
        requests = self.registry.requests()[count:]
        return [path.rpartition("/")[2] for method, path, _ in requests if method == "GET" and "/blobs/" in path]

    def close(self) -> None:
        """End both; nothing stays mounted."""
        try:
            self.crio.close()
        finally:
            self.als.close()


@pytest.fixture(scope="session")
def images(session_dir: Path) -> ImageFactory:
    return ImageFactory(session_dir / "crio-oci")


@pytest.fixture(scope="session")
def registry(session_dir: Path) -> Iterator[RegistryServer]:
    with RegistryServer(session_dir / "crio-registry") as server:
        yield server


@pytest.fixture(scope="session")
def pause(images: ImageFactory, registry: RegistryServer) -> str:
    """The image of the pods themselves, which no test looks at."""
    images.scratch("pause", [TarBuilder().file("pause", b"pause").build()])
    return registry.push(images.layout.name("pause"), "pause:latest")


@pytest.fixture(scope="module")
def node(as_root: None, upstream_tools: Path, module_dir: Path, registry: RegistryServer, pause: str) -> Iterator[Node]:
    """Both of them running."""
    running = Node(module_dir, upstream_tools, registry, pause)
    try:
        running.als.start()  # First, as on a node: CRI-O refuses to start without the folders that it is told of.
        running.crio.start()
        running.crio.pull(pause)
        running.pause_layers = running.crio.own_image_layers()
        yield running
    finally:
        running.close()


@pytest.fixture
def pods(node: Node) -> Iterator[None]:
    """No pod of this test is left to the next one."""
    yield
    node.crio.wipe_pods()


@pytest.fixture
def image(images: ImageFactory, registry: RegistryServer, request: pytest.FixtureRequest) -> str:
    """A runnable image with a file and a whiteout of its own for each test; nobody has it yet."""
    tag = request.node.name.replace("test_", "").replace("_", "-").translate({ord("["): "-", ord("]"): None}).lower()
    upper = TarBuilder().directory("srv").file("srv/name", tag.encode()).file("srv/large", tag.encode() * 10_000)
    images.runnable(tag, [upper.build(), TarBuilder().whiteout("etc/group").symlink("srv/link", "name").build()])
    return registry.push(images.layout.name(tag), f"{tag}:latest")
