"""EROFS images made by mkfs.erofs, and FUSE mounts whose daemon is dead or silent."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.mount.erofs import Backing
from als.mount.unmounting import unmount
from als.native import mounts
from tests.harness.system import run


@pytest.fixture(params=[Backing.FILE, Backing.LOOP], ids=lambda backing: str(backing.value))
def backing(request: pytest.FixtureRequest, as_root: None) -> Backing:
    """Both ways to mount an image, one after the other."""
    chosen: Backing = request.param
    if chosen is Backing.FILE and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 12):
        pytest.skip("this kernel cannot mount EROFS from a file")
    return chosen


@pytest.fixture(scope="module")
def image(module_dir: Path) -> Path:
    """An image with a setuid program, a script, a device, and a file whose data lies elsewhere (metacopy)."""
    source = module_dir / "source"
    source.mkdir()
    program = Path(shutil.which("id") or "/usr/bin/id")
    shutil.copy(program, source / "setuid")
    (source / "setuid").chmod(0o4755)
    (source / "script").write_text("#!/bin/sh\necho ran\n", "utf-8")
    (source / "script").chmod(0o755)
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    (source / "metacopy").touch()
    os.truncate(source / "metacopy", program.stat().st_size)
    (source / "metacopy").chmod(0o4755)
    os.setxattr(source / "metacopy", "trusted.overlay.metacopy", b"")
    os.setxattr(source / "metacopy", "trusted.overlay.redirect", b"/aa/object")
    path = module_dir / "image with # and \\ in it.erofs"
    run("mkfs.erofs", path, source)
    return path


@pytest.fixture
def silent_fuse(tmp_path: Path, as_root: None) -> Iterator[tuple[Path, io.FileIO]]:
    """A FUSE mount whose daemon never answers, and its connection: closing that makes it a dead one."""
    target = tmp_path / "fuse"
    target.mkdir()
    with io.FileIO("/dev/fuse", "r+") as connection:
        options = f"fd={connection.fileno()},rootmode=40000,user_id=0,group_id=0"
        mounts.mount("als-test", target, "fuse", options=options)
        yield target, connection
        unmount(target, lazily=True)


@pytest.fixture
def dead_fuse(silent_fuse: tuple[Path, io.FileIO]) -> Path:
    """A FUSE mount whose daemon died."""
    path, connection = silent_fuse
    connection.close()
    return path
