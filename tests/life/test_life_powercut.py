"""The power fails at random moments of pulls, removals and gc: a start without any fsck finds everything that was promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.ocilayout import Layout
from tests.harness.powercut import cuts, recording
from tests.life.powercuts import Scene, make_images, policy

SEED = 7
POINTS = 15


def test_power_cuts(as_root: None, tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    policy(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with recording(tmp_path / "ext4") as disk:
        scene = Scene(disk, make_images(layout), tmp_path)
        scene.play()
    notes: list[str] = []
    for cut in cuts(disk, POINTS, SEED):
        scene.check(cut, SEED, notes.append)
    assert len(notes) > POINTS // 2, notes
