"""A daemon with its mirror, a registry behind it, and podmans that ask the mirror first."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.mirror.serve import Mirror
from als.service import Service
from tests.conftest import CACHE
from tests.harness.als import AlsDaemon
from tests.harness.clients import Unavailable, binaries_of
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import Layout
from tests.harness.podman import Binaries, Podman, Storage, insecure_registries
from tests.harness.registry import RegistryServer, registry_server
from tests.harness.stack import Stack
from tests.harness.system import free_port, unmount_below
from tests.mirror.asking import Asker
from tests.mirror.registries import TroubledRegistry

__all__ = ["registry_server"]

MACHINES_OWN = "bookworm"
SUITES = (MACHINES_OWN, "forky")
"""podman 4.3.1, the machine's own on Debian 12, and 5.8."""


class MirrorStack(Stack):
    """A daemon and a podman that knows its image store and its mirror, but not its layer store."""

    def __init__(self, base: Path, registry: RegistryServer, binaries: Binaries) -> None:
        super().__init__(base, registry, binaries)
        self.port = free_port()
        self.als = AlsDaemon(base, mirror_port=self.port)
        image_store = self.als.image_store if binaries.version < (5,) else self.als.composefs_store
        storage = Storage((), (image_store,), insecure=(registry.address,), mirror_port=self.port)
        self.podman = Podman(base / "p", storage, binaries)
        self.als.environment.update(self.podman.environment)

    def blobs_fetched(self, since: int = 0) -> list[str]:
        """Digests of the blobs that the registry has sent, in order, after its first `since` requests."""
        asked = self.registry.requests()[since:]
        # What is refused for want of credentials was not sent.
        sent = [path for method, path, status in asked if method == "GET" and "/blobs/sha256" in path and status < 400]
        return [path.rpartition("/")[2] for path in sent]


def binaries(suite: str) -> Binaries:
    """The programs of a suite's podman; where they cannot be had, the test is skipped."""
    if suite == MACHINES_OWN:
        return Binaries()
    try:
        return binaries_of(suite, CACHE)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def images(module_dir: Path) -> ImageFactory:
    return ImageFactory(module_dir / "oci")


@pytest.fixture(scope="module", params=SUITES)
def stack(
    as_root: None, module_dir: Path, registry_server: RegistryServer, request: pytest.FixtureRequest
) -> Iterator[MirrorStack]:
    suite: str = request.param
    with MirrorStack(module_dir / suite[0], registry_server, binaries(suite)) as running:
        yield running


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "images")


@pytest.fixture
def registry(layout: Layout) -> Iterator[TroubledRegistry]:
    with TroubledRegistry(layout) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, registry: TroubledRegistry, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of a service whose mirror stands before `registry`, for root and the user 65534."""
    port = free_port()
    conf = tmp_path / "registries.conf"
    conf.write_text(insecure_registries([registry.address], port))
    (tmp_path / "auth.json").write_text(json.dumps({}))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    return Config(
        root=tmp_path / "root",
        run=tmp_path / "run",
        worker_user="65533",
        lookup_deadline=20.0,
        layouts=LAYOUTS,
        mirror_port=port,
        mirror_users=("65534",),
    )


@pytest.fixture
def service(config: Config, as_root: None) -> Iterator[Service]:
    try:
        with Service(config) as opened:
            yield opened
    finally:
        unmount_below(config.root)


@pytest.fixture
def mirror(service: Service, config: Config) -> Iterator[Mirror]:
    with Mirror(service, config.mirror_port, config.mirror_ids()) as running:
        yield running


@pytest.fixture
def ask(mirror: Mirror, registry: TroubledRegistry) -> Asker:
    """Requests to the mirror for ``name`` in the registry, as root."""
    assert os.geteuid() == 0
    return Asker(mirror.port, f"{registry.address.replace(':', '__')}/name")
