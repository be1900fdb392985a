"""What the tests that run in the machine with fs-verity have in common."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
