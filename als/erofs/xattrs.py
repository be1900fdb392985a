"""Extended attributes of EROFS inodes: names, escapes, the name filter, and which of them are shared.

An xattr that several inodes have with the same value is stored once, in an area of its own behind the inodes, and referred to
by its offset there; the others stand behind their inode.
"""

from __future__ import annotations

from collections.abc import Iterable

from als.erofs.layout import XATTR_ENTRY, XATTR_HEADER, XATTR_ID, round_up
from als.erofs.xxh32 import xxh32

Xattr = tuple[bytes, bytes]
"""Full name and value."""

MAX_NAME = 255
"""XATTR_NAME_MAX, for the full name."""
MAX_VALUE = 0xFFFF
MAX_AREA = XATTR_HEADER.size + 4 * (0xFFFF - 1)
"""An inode counts the words of its xattrs in 16 bits."""

_MAX_SHARED = 0x80
"""So many shared xattrs an inode refers to at most (mkcomposefs' limit; the format's is 255)."""
_FILTER_SEED = 0x25BBE08F
_PREFIXES = (
    (b"trusted.", 4),
    (b"user.", 1),
    (b"security.", 6),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
)
_PREFIX_OF = {0: b"", 5: b"lustre."} | {index: prefix for prefix, index in _PREFIXES}

ACL_NAMES = frozenset((b"system.posix_acl_access", b"system.posix_acl_default"))


def split_name(name: bytes) -> tuple[int, bytes]:
    """The index of a name's prefix, and the rest.

    Index 0 stands for no prefix: the kernel has no handler for such a name and does not show it, just as any local file
    system would have refused it; we keep it all the same, for it belongs to the layer.
    """
    for prefix, index in _PREFIXES:
        if name.startswith(prefix):
            return index, name[len(prefix) :]
    return 0, name


def join_name(index: int, rest: bytes) -> bytes | None:
    """The full name; None for an index that we never write."""
    prefix = _PREFIX_OF.get(index)
    return None if prefix is None else prefix + rest


def escape(name: bytes, prefixes: Iterable[bytes]) -> bytes:
    """``trusted.overlay.NAME`` becomes ``trusted.overlay.overlay.NAME``, for each of the `prefixes`."""
    for prefix in prefixes:
        if name.startswith(prefix):
            return prefix + b"overlay." + name[len(prefix) :]
    return name


def unescape(name: bytes, prefixes: Iterable[bytes]) -> bytes:
    """Undo `escape`."""
    for prefix in prefixes:
        if name.startswith(prefix + b"overlay."):
            return prefix + name[len(prefix) + len(b"overlay.") :]
    return name


def entry_size(name: bytes, value: bytes) -> int:
    """Bytes that the entry of this xattr takes."""
    return round_up(XATTR_ENTRY.size + len(split_name(name)[1]) + len(value), 4)


def encode_entry(name: bytes, value: bytes) -> bytes:
    """The entry of this xattr, padded."""
    index, rest = split_name(name)
    entry = XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
    return entry + bytes(-len(entry) % 4)


class NameFilter:
    """Computes the Bloom filter of an inode's xattr names (kernel: fs/erofs/xattr.c); remembers the hash of each name."""

    def __init__(self) -> None:
        self._masks: dict[bytes, int] = {}

    def of(self, xattrs: Iterable[Xattr]) -> int:
        """32 bits; a bit that is set promises that no name with this hash is there."""
        present = 0
        for name, _ in xattrs:
            mask = self._masks.get(name)
            if mask is None:
                index, rest = split_name(name)
                mask = self._masks[name] = 1 << (xxh32(rest, _FILTER_SEED + index) & 31)
            present |= mask
        return ~present & 0xFFFFFFFF


class SharedXattrs:
    """The xattrs that several inodes have in common, in mkcomposefs' order, and their offsets in the shared area."""

    def __init__(self, common: Iterable[Xattr]) -> None:
        self.entries = sorted(common, key=lambda xattr: (xattr[0], len(xattr[1]), xattr[1]), reverse=True)
        self._offsets: dict[Xattr, int] = {}
        offset = 0
        for xattr in self.entries:
            self._offsets[xattr] = offset
            offset += entry_size(*xattr)
        self.size = offset

    def divide(self, xattrs: Iterable[Xattr]) -> tuple[list[int], list[Xattr]]:
        """The offsets of those of an inode's `xattrs` that it shares, and the others."""
        offsets: list[int] = []
        own: list[Xattr] = []
        for xattr in xattrs:
            offset = self._offsets.get(xattr)
            if offset is None or len(offsets) >= _MAX_SHARED:
                own.append(xattr)
            else:
                offsets.append(offset)
        return offsets, own

    def area_size(self, xattrs: list[Xattr]) -> int:
        """Bytes of the xattrs behind an inode that has these."""
        if not xattrs:
            return 0
        offsets, own = self.divide(xattrs)
        return XATTR_HEADER.size + XATTR_ID.size * len(offsets) + sum(entry_size(name, value) for name, value in own)

    def encode_area(self, xattrs: list[Xattr], name_filter: int, start: int) -> bytes:
        """What stands behind an inode that has these xattrs; the shared area begins `start` bytes into its first block."""
        offsets, own = self.divide(xattrs)
        parts = [XATTR_HEADER.pack(name_filter, len(offsets))]
        parts += [XATTR_ID.pack((start + offset) // 4) for offset in offsets]
        parts += [encode_entry(name, value) for name, value in own]
        return b"".join(parts)


class XattrCounter:
    """Finds the xattrs that more than one inode has.

    Redirects are counted by the 32-byte name they lead to, which the tree holds already: for a layer of a million files that
    is what makes the difference between a set and several hundred megabytes of strings.
    """

    def __init__(self) -> None:
        self._once: set[Xattr] = set()
        self._more: set[Xattr] = set()
        self._names_once: set[bytes] = set()
        self._names_more: set[bytes] = set()
        self._verity_once: set[bytes] = set()
        self._verity_more: set[bytes] = set()

    def add(self, xattr: Xattr) -> None:
        """Count one xattr of one inode."""
        if xattr in self._once:
            self._more.add(xattr)
        else:
            self._once.add(xattr)

    def add_content(self, name: bytes, verity: bytes) -> None:
        """Count the redirect to the content `name` and the metacopy xattr (with this fs-verity digest, or empty)."""
        (self._names_more if name in self._names_once else self._names_once).add(name)
        (self._verity_more if verity in self._verity_once else self._verity_once).add(verity)

    def common(self) -> tuple[set[Xattr], set[bytes], set[bytes]]:
        """Those that were counted more than once: plain xattrs, content names, fs-verity digests."""
        return self._more, self._names_more, self._verity_more


def metacopy_value(verity: bytes) -> bytes:
    """The value of a metacopy xattr: version 0, length 36, no flags, algorithm 1 (sha256), the fs-verity digest; or nothing.

    Source: the kernel's fs/overlayfs/overlayfs.h, ``struct ovl_metacopy``.
    """
    if len(verity) not in (0, 32):
        raise ValueError(f"an fs-verity digest has 32 bytes, not {len(verity)}")
    return b"\x00\x24\x00\x01" + verity if verity else b""
