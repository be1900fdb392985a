"""``python -m tests.harness.blocklog POINT IMAGE LOG``: a disk that writes down what is done to it.

Mounts a FUSE file system with one file, ``disk``, whose content is that of IMAGE. Each write and each flush is appended to LOG,
in the order in which they came. With a loop device over the file, that is what a real disk would see: the kernel turns the
barriers of the file system above into fsync of the file. See :mod:`tests.harness.powercut` for what is made of it.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from pathlib import Path
from typing import Any

import pyfuse3
import trio

RECORD = struct.Struct("<QI")
"""Offset and length of a write, whose data follow; a flush has the length 0."""
_DISK = pyfuse3.InodeT(2)
_NAME = b"disk"


class Disk(pyfuse3.Operations):
    """The file system."""

    def __init__(self, image: Path, log: Path) -> None:
        super().__init__()
        self._image = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: Any = None) -> pyfuse3.EntryAttributes:
        found = pyfuse3.EntryAttributes()
        found.st_ino = inode
        found.st_mode = stat.S_IFREG | 0o600 if inode == _DISK else stat.S_IFDIR | 0o700
        found.st_size = os.fstat(self._image).st_size if inode == _DISK else 0
        found.st_nlink = 1
        return found

    async def lookup(self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
        if name != _NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(_DISK)

    async def open(self, inode: pyfuse3.InodeT, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(1))

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return os.pread(self._image, size, off)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        self._note(off, buf)
        return os.pwrite(self._image, buf, off)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        self._note(0, b"")

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """close(2) is no barrier."""

    def _note(self, offset: int, data: bytes) -> None:
        os.writev(self._log, [RECORD.pack(offset, len(data)), data])


def main(point: str, image: str, log: str) -> None:
    options = set(pyfuse3.default_options) | {"fsname=blocklog"}
    options.discard("default_permissions")
    pyfuse3.init(Disk(Path(image), Path(log)), point, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
