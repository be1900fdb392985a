"""A store, a registry and a podman of each module's own: here things are removed that other tests would miss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.imagestore.tree import ImageStore
from als.service import Service
from als.service.recovery import recover
from tests.conftest import CACHE
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import Layout, TarBuilder
from tests.harness.podman import Podman, Storage
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack
from tests.harness.system import unmount_below


@pytest.fixture(scope="module")
def images(module_dir: Path) -> ImageFactory:
    return ImageFactory(module_dir / "oci")


@pytest.fixture(scope="module")
def stack(as_root: None, module_dir: Path) -> Iterator[Stack]:
    with RegistryServer(module_dir / "registry") as registry, Stack(module_dir, registry) as running:
        yield running


@pytest.fixture
def service(as_root: None, tmp_path: Path) -> Iterator[Service]:
    """A store in this process, whose clients are those of the machine."""
    try:
        with Service(Config(root=tmp_path / "a", run=tmp_path / "run", worker_user="65534", layouts=LAYOUTS)) as opened:
            yield opened
    finally:
        unmount_below(tmp_path)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "oci")


@dataclass(frozen=True)
class Alone:
    """A podman with one image store of a service, and nobody who answers its questions."""

    podman: Podman
    store: ImageStore
    reference: str
    """An image for the service to pull; its files /a and /b are each in a layer of their own."""
    pushed: str
    """The same in a registry, for podman."""

    def reads_all(self) -> bool:
        """Whether a container has the image's files."""
        return self.podman.run(self.pushed, "md5sum", "/a", "/b").count("  /") == 2


@pytest.fixture(params=[("bookworm", "diffN"), ("trixie", "composefs")], ids="-".join)
def alone(service: Service, module_dir: Path, request: pytest.FixtureRequest) -> Iterator[Alone]:
    suite, layout_name = request.param
    try:
        binaries = binaries_of(suite, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))
    (store,) = (store for store in service.image_stores if store.layout == layout_name)
    images = ImageFactory(module_dir / f"{suite}-images")
    images.runnable("one", [TarBuilder().file("a", b"a" * 5000).build(), TarBuilder().file("b", b"b" * 5000).build()])
    reference = images.layout.name("one")
    recover(service)  # which shares mounts with podman's mount namespace
    with RegistryServer(module_dir / f"{suite}-registry") as registry:
        pushed = registry.push(reference, "one:1")
        storage = Storage(image_stores=(store.root,), insecure=(registry.address,))
        with Podman(module_dir / f"{suite}-podman", storage, binaries) as podman:
            yield Alone(podman, store, reference, pushed)
