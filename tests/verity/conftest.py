"""What the tests that run in the machine with fs-verity have in common."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.system import unmount_below
from tests.harness.vmpytest import REPORTS

# A pull, a dozen containers and a repair take minutes in a machine without KVM: `make soak` has them.
collect_ignore = [] if os.environ.get("ALS_ALL_POINTS") or REPORTS in os.environ else ["test_verity_podman.py"]


@pytest.fixture
def sealable(module_dir: Path) -> Iterator[Path]:
    """A folder of its own on a disk; in the machine (mark ``in_vm``) that is one whose files can be sealed."""
    folder = Path(tempfile.mkdtemp(dir=module_dir))
    yield folder
    unmount_below(folder)
