"""EROFS mounts, from the file and by loop device, below a real overlay."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from als.errors import KernelError, NotFound
from als.mount import erofs
from als.mount.erofs import Backing
from als.mount.table import find_mount, is_mount
from als.mount.unmounting import unmount, unmount_below, unmounting
from als.native import mounts
from tests.harness.system import loops_below, run, wait_until


@pytest.fixture
def folder(module_dir: Path) -> Iterator[Path]:
    """An empty folder that anybody may enter; what is mounted in it goes when the test ends."""
    path = module_dir / f"test-{len(list(module_dir.iterdir()))}"
    path.mkdir()
    yield path
    unmount_below(path)
    wait_until(lambda: not loops_below(module_dir), "loop devices are detached")


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def overlay(target: Path, *lowers: Path, options: str = "") -> None:
    mounts.mount("overlay", target, "overlay", options=f"lowerdir={':'.join(map(str, lowers))}{options}")


def as_nobody(program: Path, *arguments: str) -> str:
    done = subprocess.run(
        [program, *arguments], user=65534, group=65534, extra_groups=[], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout


def test_shows_the_content(image: Path, folder: Path, backing: Backing) -> None:
    target = directory(folder / "t")
    with erofs.erofs_mounted(image, target, backing) as root:
        assert (root / "script").read_text() == "#!/bin/sh\necho ran\n"
        entry = find_mount(target)
        assert entry is not None
        assert entry.fstype == "erofs"
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(entry.options)
        assert entry.source.startswith("/dev/loop") is (backing is Backing.LOOP)
        assert erofs.shows_image(entry, image)
        with pytest.raises(PermissionError):
            (root / "null").open("wb")
    assert not is_mount(target)


def test_one_image_twice_in_one_overlay(image: Path, folder: Path, backing: Backing) -> None:
    first, second, merged = (directory(folder / name) for name in ("a", "b", "m"))
    with ExitStack() as stack:
        stack.enter_context(erofs.erofs_mounted(image, first, backing))
        stack.enter_context(erofs.erofs_mounted(image, second, backing))
        assert first.stat().st_dev != second.stat().st_dev
        with pytest.raises(OSError, match="symbolic links"):  # ELOOP: the control
            overlay(merged, first, first)
        with unmounting(merged):
            overlay(merged, first, second)
            assert sorted(os.listdir(merged)) == sorted(os.listdir(first))


def test_flags_of_the_lower_mount_do_not_reach_the_overlay(image: Path, folder: Path, backing: Backing) -> None:
    """setuid, devices, execution, and a setuid program whose data overlay takes from the forest."""
    lower, merged, forest = (directory(folder / name) for name in ("l", "m", "f"))
    directory(forest / "aa")
    shutil.copy(shutil.which("id") or "/usr/bin/id", forest / "aa" / "object")
    (forest / "aa" / "object").chmod(0o600)
    with erofs.erofs_mounted(image, lower, backing), unmounting(merged):
        overlay(merged, lower, forest, options=",metacopy=on,redirect_dir=follow")
        assert as_nobody(merged / "script") == "ran\n"
        assert as_nobody(merged / "setuid", "-u") == "0\n"
        assert as_nobody(merged / "metacopy", "-u") == "0\n"
        assert (merged / "metacopy").read_bytes() == (forest / "aa" / "object").read_bytes()
        with (merged / "null").open("wb") as device:
            assert device.write(b"x") == 1
        with pytest.raises(PermissionError):
            as_nobody(lower / "script")


def test_ensure_mounted_mounts_once(image: Path, folder: Path, backing: Backing) -> None:
    target = directory(folder / "t")
    assert erofs.ensure_mounted(image, target, backing)
    before = find_mount(target)
    (image.parent / "link").symlink_to(image)
    try:
        assert not erofs.ensure_mounted(image.parent / "link", target, backing)
    finally:
        (image.parent / "link").unlink()
    assert find_mount(target) == before
    assert unmount(target)
    assert not is_mount(target)


def test_ensure_mounted_refuses_what_is_not_the_image(image: Path, folder: Path, backing: Backing) -> None:
    target, other = directory(folder / "t"), folder / "other.erofs"
    shutil.copy(image, other)
    with erofs.erofs_mounted(other, target, backing), pytest.raises(KernelError, match="is mounted there"):
        erofs.ensure_mounted(image, target, backing)
    with unmounting(target):
        mounts.mount("none", target, "tmpfs")
        with pytest.raises(KernelError, match="tmpfs"):
            erofs.ensure_mounted(image, target, backing)


def test_a_damaged_image_is_refused_and_leaves_nothing(folder: Path, backing: Backing) -> None:
    target, damaged = directory(folder / "t"), folder / "damaged"
    damaged.write_bytes(bytes(8192))
    with pytest.raises(KernelError, match="cannot mount") as caught:
        erofs.mount_erofs(damaged, target, backing)
    assert str(damaged) in str(caught.value)
    assert caught.value.hint
    assert not is_mount(target)


def test_what_is_missing_is_named(image: Path, folder: Path, backing: Backing) -> None:
    with pytest.raises(NotFound, match="directory to mount on"):
        erofs.mount_erofs(image, folder / "missing", backing)
    with pytest.raises(NotFound, match="image file"):
        erofs.mount_erofs(folder / "missing", directory(folder / "t"), backing)


def test_auto_takes_the_file_where_the_kernel_does(image: Path, folder: Path, as_root: None) -> None:
    target = directory(folder / "t")
    possible = erofs.can_mount_from_file(folder)
    assert erofs.mount_erofs(image, target) is (Backing.FILE if possible else Backing.LOOP)
    assert [entry.name for entry in folder.iterdir()] == ["t"]


def test_auto_falls_back_to_loop(image: Path, folder: Path, as_root: None) -> None:
    """overlay's files cannot be read the way a file-backed mount wants: a refusal that every kernel still gives."""
    lower, upper, work, merged, target = (directory(folder / name) for name in ("l", "u", "w", "m", "t"))
    overlay(merged, lower, options=f",upperdir={upper},workdir={work}")
    shutil.copy(image, merged / "image")
    if erofs.can_mount_from_file(merged):
        assert erofs.mount_erofs(merged / "image", target) is Backing.FILE
    else:
        assert erofs.mount_erofs(merged / "image", target) is Backing.LOOP
        with pytest.raises(KernelError, match="Block device required"):
            erofs.mount_erofs(merged / "image", target, Backing.FILE)
    assert (target / "script").read_text() == "#!/bin/sh\necho ran\n"
    unmount(target)
    wait_until(lambda: not loops_below(merged), "loop devices are detached")


def test_without_privileges_the_hint_says_so(image: Path, folder: Path, as_root: None) -> None:
    target = directory(folder / "t")
    script = f"""
import os, sys
from pathlib import Path
from als.errors import KernelError
from als.mount import erofs
os.setresuid(65534, 65534, 65534)
for backing in erofs.Backing:
    try:
        erofs.mount_erofs(Path({str(image)!r}), Path({str(target)!r}), backing)
    except KernelError as error:
        print(error.hint)
"""
    lines = run(sys.executable, "-c", script).stdout.decode().splitlines()
    assert len(lines) == 3
    assert "root" in lines[0]
    assert "loop" in lines[2]


def test_a_busy_mount_goes_only_lazily(image: Path, folder: Path, backing: Backing) -> None:
    target = directory(folder / "t")
    erofs.mount_erofs(image, target, backing)
    with (target / "script").open("rb") as file:
        with pytest.raises(KernelError, match="busy"):
            unmount(target)
        assert unmount(target, lazily=True)
        assert not is_mount(target)
        assert file.read() == b"#!/bin/sh\necho ran\n"


def test_unmounting_what_is_not_mounted(folder: Path, as_root: None) -> None:
    assert not unmount(folder)
    assert not unmount(folder / "missing")
    assert unmount_below(folder) == 0


def test_unmount_below_takes_all(image: Path, folder: Path, backing: Backing) -> None:
    outer, merged = directory(folder / "t"), folder / "m"
    mounts.mount("none", outer, "tmpfs")
    inner = directory(outer / "inner")
    erofs.mount_erofs(image, inner, backing)
    erofs.mount_erofs(image, inner, backing)
    directory(merged)
    overlay(merged, inner, outer)
    assert unmount_below(folder) == 4


def test_a_dead_fuse_mount_goes_lazily(dead_fuse: Path) -> None:
    assert unmount(dead_fuse, lazily=True)
    assert not is_mount(dead_fuse)
