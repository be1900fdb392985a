"""Each probe against texts, and against file systems that are known to have the feature or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.mount import features
from als.mount.table import parse_mountinfo
from als.mount.unmounting import unmounting
from als.native import mounts
from tests.harness.system import run


@pytest.fixture(scope="module")
def xfs(module_dir: Path, as_root: None) -> Iterator[Path]:
    """A directory on XFS: reflinks, no fs-verity."""
    image, target = module_dir / "xfs.img", module_dir / "xfs"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    run("mkfs.xfs", "-q", image)
    target.mkdir()
    with unmounting(target):
        run("mount", "-o", "loop", image, target)
        yield target


@pytest.fixture
def tmpfs(tmp_path: Path, as_root: None) -> Iterator[Path]:
    target = tmp_path / "tmpfs"
    target.mkdir()
    with unmounting(target):
        mounts.mount("none", target, "tmpfs")
        yield target


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-49-amd64", (6, 1)), ("6.18.44-fc-v669", (6, 18)), ("5.10", (5, 10)), ("7.2-rc3+", (7, 2)), ("odd", (0, 0))],
)
def test_kernel_version(release: str, version: tuple[int, int]) -> None:
    assert features.parse_kernel_version(release) == version


def test_this_kernel_has_a_version() -> None:
    assert os.uname().release.startswith(".".join(map(str, features.kernel_version())))


@pytest.mark.parametrize(("version", "lowers", "resend"), [((6, 4), False, False), ((6, 5), True, False), ((6, 9), True, True)])
def test_what_the_version_decides(version: tuple[int, int], lowers: bool, resend: bool) -> None:
    for feature, expected in ((features.data_only_lowers(version), lowers), (features.fuse_resend(version), resend)):
        assert feature.ok is expected
        assert bool(feature.remedy) is not expected


def test_file_system_known() -> None:
    loaded = "nodev\tsysfs\n\text4\nnodev\toverlay\n"
    modules = "kernel/fs/erofs/erofs.ko.xz: kernel/lib/lz4.ko\nkernel/fs/xfs/xfs.ko:"
    assert features.file_system_known("ext4", loaded, "").ok
    assert features.file_system_known("overlay", loaded, "").ok
    assert features.file_system_known("erofs", loaded, modules).detail.startswith("a module")
    for name, dep in (("erofs", ""), ("rofs", modules), ("ext", ""), ("fs", modules)):
        assert not features.file_system_known(name, loaded, dep).ok


def test_overlay_metacopy(tmp_path: Path) -> None:
    assert "not loaded" in features.overlay_metacopy(tmp_path / "missing").detail
    assert "metacopy and redirect_dir" in features.overlay_metacopy(tmp_path).detail
    (tmp_path / "metacopy").touch()
    assert not features.overlay_metacopy(tmp_path).ok
    (tmp_path / "redirect_dir").touch()
    assert features.overlay_metacopy(tmp_path).ok


def test_reflinks(xfs: Path, tmpfs: Path) -> None:
    assert features.reflinks(xfs).ok
    assert not features.reflinks(tmpfs).ok
    assert not features.reflinks(tmpfs / "missing").ok
    assert list(xfs.iterdir()) == list(tmpfs.iterdir()) == []


def test_fs_verity(xfs: Path, tmpfs: Path) -> None:
    assert not features.fs_verity(tmpfs).ok
    assert not features.fs_verity(xfs).ok
    assert "mkdir" in features.fs_verity(tmpfs / "missing").remedy


def test_fs_verity_where_there_is_one(module_dir: Path, as_root: None) -> None:
    if not Path("/sys/fs/ext4/features/verity").exists():
        pytest.skip("this kernel has no fs-verity")
    image, target = module_dir / "ext4.img", module_dir / "ext4"
    target.mkdir()
    for options, expected in (("verity", True), ("^verity", False)):
        with image.open("wb") as file:
            file.truncate(16 << 20)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", options, image)
        with unmounting(target):
            run("mount", "-o", "loop", image, target)
            assert features.fs_verity(target).ok is expected


def test_file_backed_erofs_agrees_with_the_version(tmp_path: Path, as_root: None) -> None:
    if features.kernel_version() < (6, 12):
        assert not features.file_backed_erofs(tmp_path).ok
    else:
        assert features.file_backed_erofs(tmp_path).ok
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("probe", [features.loop_devices, features.fuse_device])
def test_devices(probe: object, tmp_path: Path, as_root: None) -> None:
    assert callable(probe)
    assert probe().ok
    missing = probe(tmp_path / "missing")
    assert not missing.ok
    assert "modprobe" in missing.remedy


def test_cgroup2() -> None:
    table = parse_mountinfo(
        b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
    )
    assert "not what is mounted" in features.cgroup2("0::/\n", table).detail
    table = parse_mountinfo(b"31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw")
    assert "no cgroup of version 2" in features.cgroup2("1:name=systemd:/\n", table).detail
    assert not features.cgroup2("0::/no/such/cgroup\n", table).ok
