"""The 512-byte header block of a tar archive.

All numbers are octal text, or, where GNU tar's octal would not do, base-256: big-endian two's complement whose highest
bit is the mark. What is accepted is what Go's ``archive/tar`` (``reader.go``, ``format.go``, ``strconv.go``) accepts, since
that is how every client of ours reads layers; the layouts are in POSIX.1 ``pax`` ("ustar Interchange Format") and in GNU
tar's manual ("Basic Tar Format").
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple
from zlib import adler32

from als.errors import BadImage

BLOCK = 512
"""Everything in an archive is a multiple of this many bytes."""
ZERO_BLOCK = bytes(BLOCK)
"""Two of these end an archive."""

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_CHECKSUM = slice(148, 156)
_USTAR_MAGIC = b"ustar\0"
_GNU_MAGIC = b"ustar  \0"
_STAR_TRAILER = b"tar\0"
_STAR_PREFIX = slice(345, 476)
_GNU_ATIME = slice(345, 357)
_GNU_CTIME = slice(357, 369)
_MAX_INT64 = (1 << 63) - 1


class Header(NamedTuple):
    """The fields of a header block, or of one and the extended headers that precede it."""

    name: bytes
    typeflag: bytes
    mode: int
    uid: int
    gid: int
    size: int
    """Bytes that the archive stores for the entry."""
    mtime: int
    linkname: bytes
    rdev: tuple[int, int]
    gnu: bool
    """Whether the magic is GNU tar's."""
    mtime_ns: int = 0


def parse_header(block: bytes) -> Header:
    """Read a header of the v7, ustar (POSIX), star or GNU layout.

    :param block: 512 bytes, not all zero.
    :raises BadImage: the checksum is wrong or a number is none.
    """
    _verify_checksum(block)
    name, mode, uid, gid, size, mtime, _, typeflag, linkname, magic, _, _, major, minor, prefix, _ = _FIELDS.unpack(block)
    name = until_nul(name)
    rdev = (0, 0)
    gnu = magic == _GNU_MAGIC
    if gnu or magic.startswith(_USTAR_MAGIC):
        rdev = (parse_number(major), parse_number(minor))
        if gnu:
            prefix = _misplaced_prefix(block, prefix)
        elif block.endswith(_STAR_TRAILER):
            prefix = block[_STAR_PREFIX]
        prefix = until_nul(prefix)
        if prefix:
            name = prefix + b"/" + name
    return Header(
        name,
        typeflag,
        parse_number(mode),
        parse_number(uid),
        parse_number(gid),
        parse_number(size),
        parse_number(mtime),
        until_nul(linkname),
        rdev,
        gnu,
    )


@lru_cache(maxsize=4096)
def parse_number(field: bytes) -> int:
    """Read a numeric field: octal padded with spaces and NULs, or base-256.

    Remembers the last ones, for owners, modes and times are the same over and over.

    :raises BadImage: it is neither, or does not fit 64 bits.
    """
    text = field.strip(b" \0")
    if not text:
        return 0
    if text[0] & 0x80:
        return _parse_base256(field)
    if not text.isdigit():
        text = until_nul(text)
    if text.isdigit():
        try:
            return int(text, 8)
        except ValueError as error:
            raise BadImage(f"a number in a tar header is not octal: {field!r}") from error
    raise BadImage(f"a field of a tar header is not a number: {field!r}")


def until_nul(field: bytes) -> bytes:
    """A text field without its padding."""
    return field.partition(b"\0")[0]


def _parse_base256(field: bytes) -> int:
    if not field[0] & 0x80:
        raise BadImage(f"a field of a tar header is not a number: {field!r}")
    mask = (1 << (8 * len(field) - 1)) - 1
    value = int.from_bytes(field, "big")
    magnitude = ~value & mask if field[0] & 0x40 else value & mask
    if magnitude > _MAX_INT64:
        raise BadImage(f"a number in a tar header does not fit 64 bits: {field!r}")
    return -magnitude - 1 if field[0] & 0x40 else magnitude


def _verify_checksum(block: bytes) -> None:
    """The sum of all bytes with the checksum's own taken as spaces; old writers summed them as signed."""
    field = block[_CHECKSUM]
    stored = parse_number(field)
    unsigned = _sum(block) - sum(field) + 8 * 0x20
    if stored == unsigned:
        return
    rest = block[: _CHECKSUM.start] + block[_CHECKSUM.stop :]
    if stored != unsigned - 256 * sum(byte >= 0x80 for byte in rest):
        raise BadImage("the checksum of a tar header is wrong; this is no tar archive, or a damaged one")


def _sum(block: bytes) -> int:
    """``sum(block)`` in a tenth of the time: the low half of Adler-32 is 1 + the sum of the bytes modulo 65,521, which 256
    bytes cannot reach (RFC 1950)."""
    half = BLOCK // 2
    return (adler32(block[:half]) & 0xFFFF) + (adler32(block[half:]) & 0xFFFF) - 2


def _misplaced_prefix(block: bytes, prefix: bytes) -> bytes:
    """GNU headers have no prefix, but those of Go before 1.8 do, where GNU keeps atime and ctime (golang.org/issue/12594)."""
    for field in (block[_GNU_ATIME], block[_GNU_CTIME]):
        if field[0]:
            try:
                parse_number(field)
            except BadImage:
                text = until_nul(prefix)
                return text if text.isascii() else b""
    return b""
