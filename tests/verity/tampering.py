"""What somebody with root's rights, or a disk, may do to a file that is sealed; each leaves all other files as they are."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
from pathlib import Path

from als.native.verity import seal_files
from tests.harness.system import mounts

_BLOCK = 4096
_FIBMAP = 1
"""ioctl(2), linux/fs.h: the number of the block of the device that has a block of a file."""


def names_of(path: Path, *folders: Path) -> list[Path]:
    """All names that a file has below some folders."""
    wanted = path.stat()
    found = (Path(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names)
    return [each for each in found if (s := each.lstat()).st_ino == wanted.st_ino and s.st_dev == wanted.st_dev]


def put_in_place(names: list[Path], data: bytes, *, sealed: bool) -> None:
    """Let all names of a file stand for another one."""
    first, *others = names
    mode = first.stat().st_mode
    staging = first.with_name("tampered")
    staging.write_bytes(data)
    staging.chmod(mode & 0o7777)
    if sealed:
        seal_files([str(staging)])
    staging.rename(first)
    for name in others:
        name.unlink()
        os.link(first, name)


def flip_block(path: Path, number: int) -> None:
    """Change a byte of a file's block on the disk, behind the file system's back, and have all be read from the disk again."""
    device = max((m for m in mounts() if path.resolve().is_relative_to(m.point)), key=lambda m: len(m.point.parts)).source
    os.sync()
    with path.open("rb") as file:
        physical: int = struct.unpack("i", fcntl.ioctl(file, _FIBMAP, struct.pack("i", number)))[0]
        expected = os.pread(file.fileno(), _BLOCK, number * _BLOCK)
    assert physical, f"{path} has no block {number}"
    fd = os.open(device, os.O_RDWR)
    try:
        block = os.pread(fd, _BLOCK, physical * _BLOCK)
        assert block[: len(expected)] == expected
        os.pwrite(fd, bytes([block[0] ^ 1]) + block[1:], physical * _BLOCK)
        os.fsync(fd)
    finally:
        os.close(fd)
    drop_caches()


def drop_caches() -> None:
    """Have everything read from the disk again."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def copied(path: Path, target: Path) -> Path:
    """A copy of a file that is not sealed."""
    shutil.copyfile(path, target)
    return target
