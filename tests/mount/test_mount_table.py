"""The mount table: parsed from text, and the kernel's own."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.mount.table import MountEntry, MountWatch, find_mount, is_mount, mounts_below, parse_mountinfo, read_mounts
from als.mount.unmounting import unmounting
from als.native import mounts
from tests.harness.system import mounts_below as harness_mounts_below

TABLE = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue
40 27 7:3 / /var/lib/als/m/a\040b\134c\011\043 ro,nodev shared:5 - erofs /dev/loop3 ro,user_xattr
41 40 0:50 / /var/lib/als/m ro - overlay - rw,lowerdir=/a:/b,metacopy=on
"""


def test_every_field() -> None:
    entries = parse_mountinfo(TABLE)
    assert [entry.mount_id for entry in entries] == [22, 36, 40, 41]
    assert entries[1] == MountEntry(
        mount_id=36,
        parent_id=35,
        device=(98, 0),
        root=Path("/mnt1"),
        target=Path("/mnt2"),
        options=("rw", "noatime"),
        propagation=("master:1", "propagate_from:2"),
        fstype="ext3",
        source="/dev/root",
        super_options=("rw", "errors=continue"),
    )
    assert entries[2].target == Path("/var/lib/als/m/a b\\c\t#")
    assert entries[3].source == "-"


@pytest.mark.parametrize("line", [b"x", b"1 2 3:4 / /a rw", b"1 2 3 / /a rw - ext4 s rw", b"1 2 3:4 / /a rw - ext4"])
def test_what_is_no_table_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="mountinfo"):
        parse_mountinfo(line)


def escaped(name: bytes) -> bytes:
    """As seq_path() of the kernel writes names."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)


@given(
    st.binary(min_size=1, max_size=255).filter(
        lambda name: b"\0" not in name and b"/" not in name and name not in (b".", b"..")
    )
)
def test_any_name_comes_through(name: bytes) -> None:
    (entry,) = parse_mountinfo(b"1 2 0:3 / /x/%b rw - tmpfs %b rw\n" % (escaped(name), escaped(name)))
    assert os.fsencode(entry.target) == b"/x/" + name
    assert os.fsencode(entry.source) == name


def test_order_for_unmounting() -> None:
    lines = [
        b"%d 1 0:9 / %b rw - tmpfs %d rw" % (number, path, number)
        for number, path in enumerate((b"/a", b"/a/b", b"/a", b"/ab"))
    ]
    table = parse_mountinfo(b"\n".join(lines))
    assert [entry.mount_id for entry in mounts_below(Path("/a"), table)] == [1, 2, 0]
    top = find_mount(Path("/a"), table)
    assert top is not None
    assert top.mount_id == 2


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    "name", ["plain", "with space", "tab\there", "line\nfeed", "back\\slash", "ha#sh", "\udcff\udcfe", "ünï"]
)
def test_the_kernels_own_names(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    target.mkdir()
    assert not is_mount(target)
    with unmounting(target):
        mounts.mount("so\\ur ce", target, "tmpfs")
        entry = find_mount(target)
        assert entry is not None
        assert (entry.target, entry.fstype, entry.source) == (target, "tmpfs", "so\\ur ce")
        assert os.makedev(*entry.device) == target.stat().st_dev
    assert not is_mount(target)


@pytest.mark.usefixtures("as_root")
def test_a_path_through_a_symlink_is_found(tmp_path: Path) -> None:
    (tmp_path / "real" / "target").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    with unmounting(tmp_path / "link" / "target"):
        mounts.mount("none", tmp_path / "real" / "target", "tmpfs")
        assert is_mount(tmp_path / "link" / "target")
        assert len(mounts_below(tmp_path / "link" / "..")) == len(harness_mounts_below(tmp_path)) == 1


def test_a_dead_mount_is_in_the_table(dead_fuse: Path) -> None:
    assert not os.path.ismount(dead_fuse)
    assert is_mount(dead_fuse)
    assert find_mount(dead_fuse / "below") is None


def test_a_silent_mount_is_in_the_table(silent_fuse: tuple[Path, io.FileIO]) -> None:
    assert is_mount(silent_fuse[0])


def test_the_root_is_a_mount() -> None:
    assert is_mount(Path("/"))
    table = read_mounts()
    assert set(mounts_below(Path("/"), table)) == set(table)


@pytest.mark.usefixtures("as_root")
def test_a_watch_knows_of_every_change(tmp_path: Path) -> None:
    with MountWatch() as watch:
        before = watch.read()
        assert watch.read() is before
        with unmounting(tmp_path):
            for number in range(1, 4):
                mounts.mount("none", tmp_path, "tmpfs")
                assert sum(entry.target == tmp_path for entry in watch.read()) == number
            assert set(watch.read()) == set(read_mounts())
        assert not mounts_below(tmp_path, watch.read())
