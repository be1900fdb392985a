"""The RPM on a machine with systemd: installed, switched on, upgraded under readers, rebooted, given up, removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.vm import FullVM
from tests.harness.vmparts import Parts
from tests.packaging.machine import BOOTS, Machine, Step


@pytest.fixture(scope="module")
def life(vm_parts: Parts, vm_disk: Path, module_dir: Path) -> Iterator[dict[str, Step]]:
    """What became of each step; a machine that ended by itself fails all of them."""
    yield Machine(FullVM(vm_parts, vm_disk, module_dir / "vm")).live()


@pytest.mark.parametrize("name", [name for names in BOOTS for name in names])
def test_a_package_lives(life: dict[str, Step], name: str) -> None:
    """What each step shows is said in machine_steps.sh."""
    assert name in life, "a step before this one failed"
    print(f"{name}: {life[name].seconds:.0f} s")
    assert life[name].succeeded, life[name].output[-12000:]
