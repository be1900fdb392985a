"""`als mount`: what als-mount.service does at boot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.als import AlsDaemon
from tests.harness.system import mounts, unmount_below


@pytest.fixture
def als(module_dir: Path, fixtures_dir: Path, as_root: None) -> Iterator[AlsDaemon]:
    """A store with an image in podman 4's layout; no daemon is started."""
    daemon = AlsDaemon(module_dir / "als", settings={"layouts": ["diffN"]})
    try:
        daemon.cli("pull", f"oci:{fixtures_dir / 'plain-gzip-tiny'}")
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(daemon.root)


def mounted(als: AlsDaemon) -> list[Path]:
    return sorted(
        mount.point for mount in mounts() if mount.fstype == "erofs" and mount.point.is_relative_to(als.root.resolve())
    )


def test_layers_are_mounted_again_after_a_boot(als: AlsDaemon) -> None:
    before = mounted(als)
    assert before
    unmount_below(als.root)
    assert not mounted(als)
    assert als.json("mount") == {"layers": len(before), "missing": []}
    assert mounted(als) == before
    assert als.json("mount") == {"layers": len(before), "missing": []}, "nothing is mounted twice"
    assert mounted(als) == before


def test_a_layer_that_cannot_be_mounted_is_named_and_the_others_are_there(als: AlsDaemon) -> None:
    before = mounted(als)
    assert len(before) > 1
    unmount_below(als.root)
    for image in (als.root / "layers").rglob("layer.erofs"):
        image.unlink()
        break
    done = als.cli("mount", status=7)
    assert b"1 layers could not be mounted" in done.stderr
    assert b"cannot be mounted" in done.stderr
    assert len(mounted(als)) == len(before) - 1
