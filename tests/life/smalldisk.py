"""Small file systems, and something that takes their space."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness.system import run, unmount_below


@contextmanager
def file_system(folder: Path, kind: str) -> Iterator[Path]:
    """A small file system; with `kind` ``inodes`` one on which inodes end long before blocks do."""
    point = folder / "fs"
    point.mkdir()
    try:
        if kind == "tmpfs":
            run("mount", "-t", "tmpfs", "-o", "size=24m", "none", point)
        else:
            disk = folder / "disk"
            with disk.open("wb") as file:
                file.truncate(32 << 20)
            count = "1000" if kind == "inodes" else "8000"
            run("mkfs.ext4", "-q", "-m", "0", "-N", count, "-O", "^has_journal", disk)
            run("mount", "-o", "loop", disk, point)
        yield point
    finally:
        unmount_below(point)


class Ballast:
    """Takes all but a given rest of a file system."""

    def __init__(self, point: Path) -> None:
        self._point = point
        self._folder = point / "ballast"
        self._folder.mkdir()

    def leave_bytes(self, count: int) -> None:
        """Fill up all blocks but these; in steps, because a file's own metadata takes some as well."""
        self.drop()
        path = self._folder / "blocks"
        with path.open("wb") as file:
            for _ in range(20):
                status = os.statvfs(self._point)
                excess = status.f_bavail * status.f_frsize - count
                if excess < status.f_frsize:
                    break
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), path.stat().st_size, excess)

    def leave_inodes(self, count: int) -> None:
        self.drop()
        for number in range(os.statvfs(self._point).f_favail - count):
            (self._folder / str(number)).touch()

    def drop(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()
