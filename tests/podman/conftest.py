"""One registry and one folder of images for all podman tests; per module a daemon and a podman of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.images import ImageFactory
from tests.harness.registry import RegistryServer
from tests.harness.stack import Stack

Push = Callable[[str], str]


@pytest.fixture(scope="session")
def images(session_dir: Path) -> ImageFactory:
    return ImageFactory(session_dir / "oci")


@pytest.fixture(scope="session")
def registry(session_dir: Path) -> Iterator[RegistryServer]:
    with RegistryServer(session_dir / "registry") as server:
        yield server


@pytest.fixture(scope="session")
def push(images: ImageFactory, registry: RegistryServer) -> Push:
    """Push an image of `images` by its tag; returns the reference to pull it by."""
    return lambda tag: registry.push(images.layout.name(tag), f"{tag}:latest")


@pytest.fixture(scope="module")
def stack(as_root: None, module_dir: Path, registry: RegistryServer) -> Iterator[Stack]:
    with Stack(module_dir, registry) as running:
        yield running
