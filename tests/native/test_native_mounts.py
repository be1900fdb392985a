"""mount, umount2 and unshare against the real kernel."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from als.native import mounts
from als.native.mounts import MountFlag, UnmountFlag
from als.native.refusal import Refusal, refusal

pytestmark = pytest.mark.usefixtures("as_root")


def test_mount_and_unmount(tmp_path: Path) -> None:
    target = tmp_path / "a b"
    target.mkdir()
    mounts.mount("word", target, "tmpfs", MountFlag.NODEV | MountFlag.NOSUID, "size=64k,mode=0700")
    try:
        assert os.path.ismount(target)
        assert target.stat().st_mode & 0o777 == 0o700
        assert os.statvfs(target).f_flag & os.ST_NODEV
        (target / "file").write_bytes(b"x")
        with (target / "file").open("rb"), pytest.raises(OSError, match="busy") as caught:
            mounts.unmount(target)
        assert caught.value.errno == errno.EBUSY
        assert refusal(caught.value) is Refusal.BUSY
    finally:
        mounts.unmount(target, UnmountFlag.DETACH | UnmountFlag.NOFOLLOW)
    assert not os.path.ismount(target)


def test_an_error_names_source_and_target(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        mounts.mount("source", tmp_path, "no-such-fs")
    assert caught.value.errno == errno.ENODEV
    assert (caught.value.filename, caught.value.filename2) == ("source", str(tmp_path))


def test_python_picks_the_subclass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mounts.mount("none", tmp_path / "missing", "tmpfs")


@pytest.mark.parametrize(
    ("source", "options"), [("a\0b", ""), ("none", "x" * os.sysconf("SC_PAGE_SIZE")), ("none", "size=1k\0,mode=0700")]
)
def test_what_the_kernel_would_cut_off_is_refused(tmp_path: Path, source: str, options: str) -> None:
    with pytest.raises(ValueError):
        mounts.mount(source, tmp_path, "tmpfs", MountFlag.NONE, options)
    assert not os.path.ismount(tmp_path)


def test_a_symlink_is_not_followed_when_unmounting(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.mkdir()
    link.symlink_to(target)
    mounts.mount("none", target, "tmpfs")
    try:
        with pytest.raises(OSError):
            mounts.unmount(link)
        assert os.path.ismount(target)
    finally:
        mounts.unmount(target)


def test_a_mount_namespace_of_its_own(tmp_path: Path) -> None:
    script = """
import os, sys
from als.native import mounts
from als.native.mounts import MountFlag, Namespace
mounts.unshare(Namespace.MOUNT)
mounts.mount("none", "/", "", MountFlag.REC | MountFlag.PRIVATE)
mounts.mount("none", sys.argv[1], "tmpfs")
print(os.path.ismount(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "True\n"
    assert not os.path.ismount(tmp_path)


def test_a_cloned_mount_shows_what_another_covers(tmp_path: Path) -> None:
    target = tmp_path / "covered"
    target.mkdir()
    (target / "below").touch()
    mounts.mount("none", target, "tmpfs")
    try:
        assert os.listdir(target) == []
        fd = mounts.clone_mount(tmp_path)
        try:
            covered = os.open("covered", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            assert os.listdir(covered) == ["below"]
            os.close(covered)
        finally:
            os.close(fd)
    finally:
        mounts.unmount(target)
