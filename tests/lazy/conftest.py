"""Fixtures of the lazy layers' tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.worker.client import Workers
from tests.harness.registry import registry_server
from tests.lazy.site import Site

__all__ = ["registry_server"]


@pytest.fixture(scope="module")
def workers(module_dir: Path, as_root: None) -> Iterator[Workers]:
    with Workers((65534, 65534), module_dir / "empty") as found:
        yield found


@pytest.fixture
def site(module_dir: Path, workers: Workers) -> Iterator[Site]:
    with Site(Path(tempfile.mkdtemp(prefix="s", dir=module_dir)), workers) as found:
        yield found
