"""Writes an EROFS image of a tree: deterministic, in pure Python, in one go from front to back.

Three passes: :mod:`als.erofs.order` numbers the inodes, :mod:`als.erofs.place` gives each its place, this module makes the
bytes. No more than about a megabyte of the image is held at a time. The layout is composefs' (a superset of plain EROFS), so
that with the profiles `COMPOSEFS_V0` and `COMPOSEFS_V1` an image equals mkcomposefs' bit for bit: that makes the tool an
oracle for everything that layer images have in common with composefs' images, which is nearly all.

``mkfs.erofs --tar=headerball --aufs`` could write layer images too, but it is not in Debian 12, does not escape overlay's
xattrs and has no oracle but itself.

Where mkcomposefs makes one inode of two names (``@`` in its dump format) the number of links is the one stated there; reading a
directory, it gives every name an inode of its own. We always write the true number of links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Protocol

from als.erofs.areas import Areas
from als.erofs.layout import (
    BLOCK,
    BLOCK_BITS,
    CHUNK_BASED,
    COMPACT,
    COMPOSEFS_HAS_ACL,
    COMPOSEFS_HEADER,
    COMPOSEFS_MAGIC,
    COMPOSEFS_VERSION,
    DIRENT,
    DIRENT_TYPES,
    EXTENDED,
    FEATURE_COMPAT,
    FLAT_INLINE,
    FLAT_PLAIN,
    FORMAT_BITS,
    NULL_CHUNK,
    SLOT,
    SUPER,
    SUPER_MAGIC,
    SUPER_OFFSET,
    XATTR_HEADER,
    chunk_bits,
    encode_rdev,
)
from als.erofs.order import Order, is_redirected
from als.erofs.place import Places
from als.erofs.profile import Profile
from als.erofs.xattrs import encode_entry
from als.model.tree import FileType, Inode, Tree

_BUFFER = 1 << 20


class Sink(Protocol):
    """Something to write to."""

    def write(self, data: bytes, /) -> object: ...


def write_image(
    tree: Tree, out: Sink, profile: Profile, *, verity: Mapping[bytes, bytes] | None = None, uuid: bytes = b""
) -> None:
    """Write the image of `tree` to `out`, from its current position on.

    Equal trees give equal bytes. A regular file with `data` has its bytes in the image; any other that is not empty gets a
    redirect to its content in the forest.

    :param verity: the fs-verity digests (sha256, 32 bytes) of contents, by their names in the forest; overlay checks them
        if mounted with ``verity=``. A content that is not in it gets an empty metacopy xattr.
    :param uuid: 16 bytes by which the mounted image can be told from others; by default zeros.
    :raises als.errors.Unsupported: the tree holds what EROFS, or an image of this kind, cannot; nothing was written.
    """
    order = Order(tree, profile, verity or {})
    areas = Areas(order)
    writer = _Writer(order, Places(order, areas), areas, uuid)
    buffer: list[bytes] = []
    size = 0
    for piece in writer.pieces():
        buffer.append(piece)
        size += len(piece)
        if size >= _BUFFER:
            out.write(b"".join(buffer))
            buffer.clear()
            size = 0
    out.write(b"".join(buffer))


class _Writer:
    """Makes the bytes of an image whose layout is settled."""

    def __init__(self, order: Order, places: Places, areas: Areas, uuid: bytes) -> None:
        self._uuid = uuid
        self._order = order
        self._places = places
        self._areas = areas
        self._next_block = places.data_start // BLOCK
        self._kinds = bytes([DIRENT_TYPES[inode.type] for inode in order.inodes])

    def pieces(self) -> Iterator[bytes]:
        """The image from front to back."""
        yield self._header()
        position = SUPER_OFFSET + SUPER.size
        for number, nid in enumerate(self._places.nids):
            start = nid * SLOT
            inode = self._inode(number)
            yield inode if start == position else bytes(start - position) + inode
            position = start + len(inode)
        yield bytes(self._places.shared_start - position)
        for name, value in self._order.shared.entries:
            yield encode_entry(name, value)
        yield bytes(self._places.data_start - self._places.shared_start - self._order.shared.size)
        for number, blocks in enumerate(self._places.blocks):
            if blocks:
                yield from self._data_blocks(number, blocks)

    def _header(self) -> bytes:
        order, places = self._order, self._places
        flags = COMPOSEFS_HAS_ACL if order.has_acl else 0
        header = COMPOSEFS_HEADER.pack(COMPOSEFS_MAGIC, COMPOSEFS_VERSION, flags, order.profile.composefs_version)
        blocks = places.data_start // BLOCK + places.data_blocks
        identity = (places.nids[0], len(order.nodes), *order.epoch, blocks, 0, places.shared_start // BLOCK, self._uuid, b"")
        superblock = SUPER.pack(SUPER_MAGIC, 0, FEATURE_COMPAT, BLOCK_BITS, 0, *identity, *([0] * 9))
        return header.ljust(SUPER_OFFSET, b"\0") + superblock

    def _inode(self, number: int) -> bytes:
        """An inode with its xattrs and its tail."""
        places = self._places
        inode = self._order.inodes[number]
        if is_redirected(inode):
            size, tail = inode.size, NULL_CHUNK
            layout, union = CHUNK_BASED, chunk_bits(size) - BLOCK_BITS
        else:
            size, tail = self._size(number, inode), self._tail(number, inode)
            layout, union = FLAT_INLINE if tail else FLAT_PLAIN, self._union(number, inode)
        area = places.areas[number]
        words = (area - XATTR_HEADER.size) // 4 + 1 if area else 0
        mode, links = FORMAT_BITS[inode.type] | inode.mode, self._order.links[number]
        if places.compact[number]:
            head = COMPACT.pack(layout << 1, words, mode, links, size, 0, union, number, inode.uid, inode.gid, 0)
        else:
            owner = (number, inode.uid, inode.gid, inode.mtime, inode.mtime_ns)
            head = EXTENDED.pack(layout << 1 | 1, words, mode, 0, size, union, *owner, links)
        if not words:
            return head + tail
        return head + self._areas.encode(number, places.shared_start % BLOCK) + tail

    def _size(self, number: int, inode: Inode) -> int:
        """What an inode states as the size of its data."""
        if inode.type is FileType.DIR:
            return self._places.blocks[number] * BLOCK + self._places.tails[number]
        return len(inode.target) if inode.type is FileType.SYMLINK else inode.size

    def _union(self, number: int, inode: Inode) -> int:
        """The field of an inode without redirect which says where its data are, or which device it is."""
        if inode.type in (FileType.CHAR, FileType.BLOCK):
            return encode_rdev(*inode.rdev)
        blocks = self._places.blocks[number]
        if not blocks:
            return 0
        self._next_block += blocks
        return self._next_block - blocks

    def _tail(self, number: int, inode: Inode) -> bytes:
        """What stands behind an inode without redirect and its xattrs."""
        tail = self._places.tails[number]
        if not tail:
            return b""
        if inode.type is FileType.DIR:
            *_, names = _directory_blocks(self._order.listings[number][0])
            return self._dirents(number, names)
        return inode.target if inode.type is FileType.SYMLINK else (inode.data or b"")[-tail:]

    def _data_blocks(self, number: int, blocks: int) -> Iterator[bytes]:
        """The whole blocks of an inode's data."""
        inode = self._order.inodes[number]
        if inode.type is FileType.DIR:
            for names in islice(_directory_blocks(self._order.listings[number][0]), blocks):
                yield self._dirents(number, names).ljust(BLOCK, b"\0")
            return
        data = inode.target if inode.type is FileType.SYMLINK else inode.data or b""
        yield data[: blocks * BLOCK].ljust(blocks * BLOCK, b"\0")

    def _dirents(self, number: int, block: slice) -> bytes:
        """One block of a directory: fixed-size entries, then the names."""
        listing, children = self._order.listings[number]
        names = listing[block]
        offset = DIRENT.size * len(names)
        nids, kinds, pack = self._places.nids, self._kinds, DIRENT.pack
        entries: list[bytes] = []
        for name, child in zip(names, children[block], strict=True):
            entries.append(pack(nids[child], offset, kinds[child]))
            offset += len(name)
        return b"".join(entries + names)


def _directory_blocks(names: list[bytes]) -> Iterator[slice]:
    """The names of a directory as they are spread over its blocks."""
    used = first = 0
    for position, name in enumerate(names):
        size = DIRENT.size + len(name)
        if used + size > BLOCK:
            yield slice(first, position)
            first, used = position, 0
        used += size
    yield slice(first, len(names))
