"""The store that the tests of both layouts publish from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.system import unmount_below
from tests.imagestore.shop import Shop


@pytest.fixture
def shop(tmp_path: Path, as_root: None) -> Iterator[Shop]:
    try:
        yield Shop(tmp_path / "root")
    finally:
        unmount_below(tmp_path)
