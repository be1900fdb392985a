"""What files take on disk and in memory, as the kernel counts it; and file systems in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.system import mounts_below, run


def bytes_on_disk(*folders: Path) -> int:
    """The blocks of all inodes below the folders, each inode once, in bytes; file systems mounted below are left out."""
    seen: dict[tuple[int, int], int] = {}
    foreign = {mount.point for mount in mounts_below(*folders) if mount.fstype in ("erofs", "overlay", "fuse", "fuse.als")}
    for folder in folders:
        for path in _walk(folder, foreign):
            status = path.lstat()
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def _walk(folder: Path, foreign: set[Path]) -> Iterable[Path]:
    for name, folders, files in os.walk(folder):
        here = Path(name)
        folders[:] = [child for child in folders if (here / child) not in foreign and not os.path.ismount(here / child)]
        yield here
        yield from (here / child for child in (*files, *(f for f in folders if (here / f).is_symlink())))


def resident_bytes(path: Path) -> int:
    """How much of a file is in the page cache (fincore(1))."""
    done = run("fincore", "--bytes", "--json", "--output", "RES", path)
    return int(json.loads(done.stdout)["fincore"][0]["res"])


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget a file's pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def xfs(folder: Path, size: int) -> Iterator[Path]:
    """An XFS with reflinks, of `size` bytes, in a sparse file; mounted at ``folder/x`` as long as the context lasts."""
    image, point = folder / "xfs.img", folder / "x"
    with image.open("wb") as file:
        file.truncate(size)
    point.mkdir()
    run("mkfs.xfs", "-q", "-m", "reflink=1", image)
    run("mount", "-o", "loop", image, point)
    try:
        yield point
    finally:
        if run("umount", point, status=None).returncode:
            run("umount", "-l", point)
        image.unlink()


def free_bytes(folder: Path) -> int:
    """Free space of a file system after all that is pending has reached it."""
    run("sync", "-f", folder)
    status = os.statvfs(folder)
    return status.f_bfree * status.f_frsize
