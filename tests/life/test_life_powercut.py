"""The power fails at random moments of pulls, of lazy layers that are filled and sealed, of removals and gc: a start without
any fsck finds everything that was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.blobproxy import BlobProxy
from tests.harness.powercut import cuts, recording
from tests.harness.registry import RegistryServer
from tests.life.history import policy
from tests.life.powercuts import play, play_lazily

SEED = 7
POINTS = 15
LAZY_POINTS = 8

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_power_cuts(tmp_path: Path) -> None:
    with recording(tmp_path / "ext4") as disk:
        scene = play(disk, tmp_path)
    found = [scene.check(cut, SEED) for cut in cuts(disk, POINTS, SEED)]
    assert sum(map(bool, found)) > POINTS // 2, found


def test_power_cuts_while_layers_are_lazy(tmp_path: Path, module_dir: Path) -> None:
    with RegistryServer(module_dir / "registry") as registry, BlobProxy(registry.address) as proxy:
        with recording(tmp_path / "ext4") as disk:
            scene = play_lazily(disk, tmp_path, registry, proxy)
        found = [scene.check(cut, SEED) for cut in cuts(disk, LAZY_POINTS, SEED)]
    assert sum(map(bool, found)) > LAZY_POINTS // 2, found
