"""A store, a registry and a podman of each module's own: here things are removed that other tests would miss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.service import Service
from tests.harness.images import ImageFactory
from tests.harness.ocilayout import Layout
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
