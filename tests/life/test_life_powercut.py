"""The power fails at random moments of pulls, of lazy layers that are filled and sealed, of removals and gc: a start without
any fsck finds everything that was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.blobproxy import BlobProxy
from tests.harness.powercut import cuts, cuts_after, recording
from tests.harness.registry import RegistryServer
from tests.life.history import policy
from tests.life.powercuts import play, play_lazily

SEED = 7
POINTS = 15
LAZY_POINTS = 8
IMAGES_SHOWN = 4
NAMED = b'"renewed": '
"""In the record of a reference alone."""
HAS_NAME = slice(3, 5)
"""Among the flushes after that was written: its file is flushed, renamed, and then its folder."""

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
        # Where an image has its name. What lazy layers are made of had to be on the disk by then.
        named = cuts_after(disk, NAMED, HAS_NAME)
        assert len(named) >= IMAGES_SHOWN * (HAS_NAME.stop - HAS_NAME.start)
        for cut in named:
            scene.check(cut, SEED)
