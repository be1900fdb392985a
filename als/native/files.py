"""Calls on open files: syncfs, reflinks, page cache residency, fs-verity."""

from __future__ import annotations

import errno
import os

from als.native.extension import check, ffi, lib


def syncfs(fd: int) -> None:
    """Write everything of the file system that `fd` lies on to disk; one call in place of an fsync for each file.

    :raises OSError: EIO, ENOSPC: something written since `fd` was opened did not reach the disk.
    """
    check(lib.syncfs(fd))


def reflink(source_fd: int, destination_fd: int) -> None:
    """FICLONE: make the destination share all of the source's blocks.

    :raises OSError: EOPNOTSUPP: the file system cannot; EXDEV: the two lie on different ones.
    """
    check(lib.als_reflink(destination_fd, source_fd))


def can_have_verity(fd: int) -> bool:
    """Whether the file system of an open regular file takes fs-verity, measured on the file itself.

    :raises OSError: the question could not be asked.
    """
    try:
        check(lib.als_verity_probe(fd))
    except OSError as error:
        # ENODATA: the feature is there, this file does not use it. ENOTTY: the file system never heard of it.
        if error.errno == errno.ENODATA:
            return True
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def cached_bytes(fd: int) -> int:
    """How many bytes of an open regular file are in the page cache, in whole pages.

    Uses cachestat(2) (Linux 6.5), before that mincore(2), which tells the truth only to who may write the file.

    :raises OSError: the file cannot be asked about.
    """
    size = os.fstat(fd).st_size
    pages = ffi.new("uint64_t *")
    try:
        check(lib.als_cached_pages(fd, size, pages))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return mapped_cached_bytes(fd)
    return pages[0] * os.sysconf("SC_PAGE_SIZE")


def mapped_cached_bytes(fd: int) -> int:
    """As :func:`cached_bytes`, by mincore(2) whatever the kernel."""
    pages = ffi.new("uint64_t *")
    check(lib.als_mincore_pages(fd, os.fstat(fd).st_size, pages))
    return pages[0] * os.sysconf("SC_PAGE_SIZE")
