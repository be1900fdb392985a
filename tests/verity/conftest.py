"""What the tests that run in the machine with fs-verity have in common."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.worker.client import Workers
from tests.harness.system import unmount_below
from tests.harness.vmpytest import REPORTS

# What takes minutes in a machine without KVM is left to `make soak`.
_LONG = ["test_verity_podman.py", "test_verity_swapped.py"]
collect_ignore = [] if os.environ.get("ALS_ALL_POINTS") or REPORTS in os.environ else _LONG


@pytest.fixture
def sealable(module_dir: Path) -> Iterator[Path]:
    """A folder of its own on a disk; in the machine (mark ``in_vm``) that is one whose files can be sealed."""
    folder = Path(tempfile.mkdtemp(dir=module_dir))
    yield folder
    unmount_below(folder)


class WarmWorkers(Workers):
    """Workers for one service after another: what starts them takes seconds to load in a machine without KVM."""

    def close(self) -> None:
        """A service has ended, and the next one will want them."""

    def end(self) -> None:
        """No service will."""
        super().close()


@pytest.fixture(scope="module")
def warm_workers(module_dir: Path) -> Iterator[WarmWorkers]:
    """Of the user whom tests here name as workers' own."""
    workers = WarmWorkers((65534, 65534), module_dir / "workers")
    yield workers
    workers.end()
