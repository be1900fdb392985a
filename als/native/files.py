"""Calls on open files: syncfs, reflinks, page cache residency, fs-verity."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

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


def write_new_files(files: Sequence[tuple[str, str, bytes | bytearray | memoryview]], mode: int) -> list[bool]:
    """Make many small files in one go, without the GIL from the first to the last.

    :param files: of each a path at which it may exist already, its own path, and its content.
    :returns: for each whether something was at the first path; then nothing was made.
    :raises OSError: one could not be made, the error names it; those before it were.
    """
    names = _joined((known, path) for known, path, _ in files)
    data = ffi.new("void *[]", [ffi.from_buffer(content) for _, _, content in files])
    sizes = ffi.new("uint64_t[]", [len(content) for _, _, content in files])
    found = ffi.new("unsigned char[]", len(files))
    done = ffi.new("size_t *")
    result = lib.als_write_new_files(len(files), ffi.from_buffer(names), data, sizes, mode, found, done)
    check(result, files[done[0]][1] if result < 0 else "")
    return [bool(one) for one in found]


def link_files(links: Sequence[tuple[str, str]]) -> list[bool]:
    """link(2) many files in one go, without the GIL from the first to the last.

    :param links: of each file the path that it has, and the one that it gets.
    :returns: for each whether something was at the latter; then it is left as it is.
    :raises OSError: one could not be linked, the error names it; those before it were.
    """
    found = ffi.new("unsigned char[]", len(links))
    done = ffi.new("size_t *")
    result = lib.als_link_files(len(links), ffi.from_buffer(_joined(links)), found, done)
    check(result, *(links[done[0]] if result < 0 else ()))
    return [bool(one) for one in found]


def _joined(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Pairs of paths as the extension takes them: each path ended by a zero byte."""
    return b"".join(os.fsencode(path) + b"\0" for pair in pairs for path in pair)


def spread_directories(fd: int) -> None:
    """FS_TOPDIR_FL: let ext4 place each directory that is made in this one in a block group of its own (chattr(1), ``T``).

    :raises OSError: EOPNOTSUPP, ENOTTY or EINVAL: the file system knows no such thing.
    """
    check(lib.als_spread_directories(fd))


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
        # EPERM is the answer of filters of system calls that are older than this one: systemd's, a container's.
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return mapped_cached_bytes(fd)
    return pages[0] * os.sysconf("SC_PAGE_SIZE")


def mapped_cached_bytes(fd: int) -> int:
    """As :func:`cached_bytes`, by mincore(2) whatever the kernel."""
    pages = ffi.new("uint64_t *")
    check(lib.als_mincore_pages(fd, os.fstat(fd).st_size, pages))
    return pages[0] * os.sysconf("SC_PAGE_SIZE")
