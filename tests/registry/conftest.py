"""What the registry's tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from als.registry.client import RegistryClient
from als.registry.endpoint import Endpoint
from als.registry.environment import Environment
from als.registry.settings import Settings
from tests.harness.registry import registry_server

__all__ = ["registry_server"]

IMPATIENT = Settings(connect_timeout=5, read_timeout=5, deadline=20, attempts=4, backoff=0.001, backoff_max=0.01)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A machine without any configuration; its files go below ``tmp_path``."""
    return Environment({"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, tmp_path / "home", 0, tmp_path)


@pytest.fixture
def make_client() -> Iterator[Callable[..., RegistryClient]]:
    """Clients that are closed at the end of the test; they pause for milliseconds instead of seconds."""
    clients: list[RegistryClient] = []

    def make(*endpoints: Endpoint, settings: Settings = IMPATIENT) -> RegistryClient:
        clients.append(RegistryClient(endpoints, settings=settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
