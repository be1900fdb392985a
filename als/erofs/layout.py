"""EROFS on disk: the few structures that uncompressed images need. All numbers are little-endian.

Sources: the kernel's fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst; for composefs' header lcfs-erofs.h.

An image of ours is, in this order: composefs header, superblock (at 1,024), inodes (each with its xattrs and, mostly, its tail
of data inline), shared xattrs, data blocks. A *nid* is an inode's offset in the image in slots of 32 bytes.
"""

from __future__ import annotations

import stat
from struct import Struct

from als.model.tree import FileType

BLOCK_BITS = 12
BLOCK = 1 << BLOCK_BITS
SLOT = 32
SUPER_OFFSET = 1024
SUPER_MAGIC = 0xE0F5E1E2
FEATURE_COMPAT = 0x2 | 0x4
"""MTIME: the epoch is that of modification times; XATTR_FILTER: inodes carry a Bloom filter of their xattr names."""

COMPOSEFS_MAGIC = 0xD078629A
COMPOSEFS_VERSION = 1
COMPOSEFS_HAS_ACL = 1
"""Header flag: mount without ``noacl``, some inode has a POSIX ACL."""

COMPOSEFS_HEADER = Struct("<IIII16x")
"""magic, version, flags, composefs version."""

SUPER = Struct("<III BB H Q qI I II 16s 16s I HHH BB I Q B 23x".replace(" ", ""))
"""magic, checksum, compat features, block bits, extension slots; root nid; inodes; epoch in seconds, nanoseconds; blocks;
first block of inodes, of shared xattrs; UUID; label; incompat features; compression, extra devices, device table;
directory block bits, long xattr prefixes, where; packed nid; filter reserved."""

COMPACT = Struct("<HHHHIIIIHHI")
"""format, xattr count, mode, links, size, mtime offset (newer kernels; 0), u, ino, uid, gid, reserved."""

EXTENDED = Struct("<HHHHQIIIIqII16x")
"""format, xattr count, mode, reserved, size, u, ino, uid, gid, mtime in seconds (two's complement), nanoseconds, links."""

DIRENT = Struct("<QHBx")
"""nid, offset of the name in its block, file type."""

XATTR_HEADER = Struct("<IB7x")
"""name filter (a set bit: no such name), count of shared xattrs; their 4-byte ids follow, then inline entries."""

XATTR_ENTRY = Struct("<BBH")
"""length of the name's suffix, index of its prefix, length of the value; both follow, then padding to 4 bytes."""

XATTR_ID = Struct("<I")
"""Offset of a shared xattr in the shared area, in units of 4 bytes."""

FLAT_PLAIN = 0
FLAT_INLINE = 2
CHUNK_BASED = 4

NULL_CHUNK = b"\xff\xff\xff\xff"
"""The block address of a chunk that is a hole."""

MAX_CHUNK_BITS = BLOCK_BITS + 31
MAX_NAME = 255
MAX_TARGET = 4095
"""PATH_MAX without the final NUL."""

FORMAT_BITS = {FileType.FILE: stat.S_IFREG, FileType.DIR: stat.S_IFDIR, FileType.SYMLINK: stat.S_IFLNK}
FORMAT_BITS |= {FileType.CHAR: stat.S_IFCHR, FileType.BLOCK: stat.S_IFBLK, FileType.FIFO: stat.S_IFIFO}
"""The type bits of an inode's mode."""

DIRENT_TYPES = {FileType.FILE: 1, FileType.DIR: 2, FileType.CHAR: 3, FileType.BLOCK: 4, FileType.FIFO: 5, FileType.SYMLINK: 7}
"""File types as directory entries state them."""


def round_up(value: int, unit: int) -> int:
    """The next multiple of `unit`, a power of two."""
    return (value + unit - 1) & -unit


def chunk_bits(size: int) -> int:
    """The logarithm of the chunk size with which a file of `size` bytes (at most 8 TiB) is a single chunk."""
    return max((size - 1).bit_length(), BLOCK_BITS)


def encode_rdev(major: int, minor: int) -> int:
    """A device number in 32 bits as the kernel's ``new_encode_dev`` makes it: 12 bits of major, 20 of minor."""
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def decode_rdev(rdev: int) -> tuple[int, int]:
    """Major and minor of what `encode_rdev` made."""
    return (rdev >> 8) & 0xFFF, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00)
