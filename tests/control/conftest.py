"""A control socket on a service in this process, and the pieces to pull through it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.control.server import Control
from als.control.wire import NAME, Channel
from als.service import Service
from tests.harness.gated import GatedRegistry
from tests.harness.ocilayout import Image, Layout, TarBuilder
from tests.harness.podman import insecure_registries
from tests.harness.system import unmount_below
from tests.registry_e2e import conftest as registries

basic_options = registries.basic_options
client = registries.client
image = registries.image
plain = registries.plain
registry_like = registries.registry_like
registry_server = registries.registry_server


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(root=tmp_path / "root", run=tmp_path / "run", worker_user="65534", lookup_deadline=20.0, layouts=LAYOUTS)


@pytest.fixture
def service(config: Config, as_root: None) -> Iterator[Service]:
    try:
        with Service(config) as opened:
            yield opened
    finally:
        unmount_below(config.root)


@pytest.fixture
def control(service: Service) -> Iterator[Control]:
    with Control(service) as running:
        yield running


@pytest.fixture(scope="module")
def layout(module_dir: Path) -> Layout:
    return Layout(module_dir / "layout")


@pytest.fixture(scope="module")
def small(layout: Layout) -> Image:
    """An image of two layers."""
    tars = [TarBuilder().file(name, name.encode() * 200).build() for name in ("one", "two")]
    return layout.add_image("small", [layout.add_layer(tar) for tar in tars])


@pytest.fixture
def gated(layout: Layout, small: Image, tmp_path: Path) -> Iterator[GatedRegistry]:
    """A registry that can hold blobs back; `registries.conf` in tmp_path lets one speak plain HTTP to it."""
    with GatedRegistry(layout) as registry:
        (tmp_path / "registries.conf").write_text(insecure_registries([registry.address]))
        yield registry


def connect(config: Config) -> tuple[socket.socket, Channel]:
    """A connection to the socket, with nothing said on it yet."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(config.run / NAME))
    return connection, Channel(connection)
