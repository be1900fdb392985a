"""The packages, built once for all tests of this folder from the tree as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.package import Built, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    if shutil.which("rpmbuild") is None:
        pytest.skip("rpmbuild is not installed")
    folder = tmp_path_factory.mktemp("rpm")
    yield build(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the package installs, below a folder."""
    folder = tmp_path_factory.mktemp("root")
    built.unpack(folder)
    yield folder
    shutil.rmtree(folder)
