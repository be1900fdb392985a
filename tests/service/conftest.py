"""A service on a store of its own, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from als.config import LAYOUTS, Config
from als.service import Service
from tests.harness.ocilayout import Layout
from tests.harness.registry import registry_server
from tests.harness.system import unmount_below

__all__ = ["registry_server"]


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
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "images")
