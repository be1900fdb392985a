"""One registry and one proxy for all of these tests; each daemon has a store of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.blobproxy import BlobProxy
from tests.harness.registry import RegistryServer
from tests.lazily.site import QUIET, Shop, Site

Open = Callable[..., Site]


@pytest.fixture(scope="session")
def lazy_registry(session_dir: Path) -> Iterator[RegistryServer]:
    with RegistryServer(session_dir / "lazily-registry") as server:
        yield server


@pytest.fixture
def proxy(lazy_registry: RegistryServer) -> Iterator[BlobProxy]:
    with BlobProxy(lazy_registry.address) as found:
        yield found


@pytest.fixture
def shop(tmp_path: Path, lazy_registry: RegistryServer, proxy: BlobProxy) -> Shop:
    return Shop(tmp_path / "oci", lazy_registry, proxy)


@pytest.fixture
def opened(as_root: None, module_dir: Path, proxy: BlobProxy) -> Iterator[Open]:
    """Starts daemons, each with settings of its own."""
    with ExitStack() as stack:

        def start(settings: Mapping[str, object] = QUIET) -> Site:
            return stack.enter_context(Site(Path(tempfile.mkdtemp(prefix="s", dir=module_dir)), proxy, settings))

        yield start


@pytest.fixture
def site(opened: Open) -> Site:
    return opened()
