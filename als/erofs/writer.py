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

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import BinaryIO

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
from als.model.tree import Directory, FileType, Inode, Node, Tree, inode_of

_BUFFER = 1 << 20


def write_image(tree: Tree, out: BinaryIO, profile: Profile, *, verity: Mapping[bytes, bytes] | None = None) -> None:
    """Write the image of `tree` to `out`, from its current position on.

    Equal trees give equal bytes. A regular file with `data` has its bytes in the image; any other that is not empty gets a
    redirect to its content in the forest.

    :param verity: the fs-verity digests (sha256, 32 bytes) of contents, by their names in the forest; overlay checks them
        if mounted with ``verity=``. A content that is not in it gets an empty metacopy xattr.
    :raises als.errors.Unsupported: the tree holds what EROFS, or an image of this kind, cannot; nothing was written.
    """
    order = Order(tree, profile, verity or {})
    areas = Areas(order)
    writer = _Writer(order, Places(order, areas), areas)
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

    def __init__(self, order: Order, places: Places, areas: Areas) -> None:
        self._order = order
        self._places = places
        self._areas = areas
        self._next_block = places.data_start // BLOCK
        self._kinds = bytes(DIRENT_TYPES[inode_of(node).type] for node in order.nodes)

    def pieces(self) -> Iterator[bytes]:
        """The image from front to back."""
        yield self._header()
        position = SUPER_OFFSET + SUPER.size
        for number, node in enumerate(self._order.nodes):
            start = self._places.nids[number] * SLOT
            inode = self._inode(number, node)
            yield bytes(start - position)
            yield inode
            position = start + len(inode)
        yield bytes(self._places.shared_start - position)
        for name, value in self._order.shared.entries:
            yield encode_entry(name, value)
        yield bytes(self._places.data_start - self._places.shared_start - self._order.shared.size)
        for number, node in enumerate(self._order.nodes):
            if self._places.blocks[number]:
                yield from self._data_blocks(number, node)

    def _header(self) -> bytes:
        order, places = self._order, self._places
        flags = COMPOSEFS_HAS_ACL if order.has_acl else 0
        header = COMPOSEFS_HEADER.pack(COMPOSEFS_MAGIC, COMPOSEFS_VERSION, flags, order.profile.composefs_version)
        blocks = places.data_start // BLOCK + places.data_blocks
        identity = (places.nids[0], len(order.nodes), *order.epoch, blocks, 0, places.shared_start // BLOCK, b"", b"")
        superblock = SUPER.pack(SUPER_MAGIC, 0, FEATURE_COMPAT, BLOCK_BITS, 0, *identity, *([0] * 9))
        return header.ljust(SUPER_OFFSET, b"\0") + superblock

    def _inode(self, number: int, node: Node) -> bytes:
        """An inode with its xattrs and its tail."""
        inode = inode_of(node)
        places = self._places
        tail = self._tail(number, node)
        layout, union = self._data_place(number, inode)
        size = places.blocks[number] * BLOCK + len(tail) if isinstance(node, Directory) else inode.size
        if inode.type is FileType.SYMLINK:
            size = len(inode.target)
        mode = FORMAT_BITS[inode.type] | inode.mode
        words = (places.areas[number] - XATTR_HEADER.size) // 4 + 1 if places.areas[number] else 0
        links = self._order.links[number]
        if places.compact[number]:
            head = COMPACT.pack(layout << 1, words, mode, links, size, 0, union, number, inode.uid, inode.gid, 0)
        else:
            owner = (number, inode.uid, inode.gid, inode.mtime, inode.mtime_ns)
            head = EXTENDED.pack(layout << 1 | 1, words, mode, 0, size, union, *owner, links)
        if not words:
            return head + tail
        return head + self._areas.encode(node, places.shared_start % BLOCK) + tail

    def _data_place(self, number: int, inode: Inode) -> tuple[int, int]:
        """An inode's data layout, and the field which says where the data are (or which device, or the size of chunks)."""
        layout = FLAT_INLINE if self._places.tails[number] else FLAT_PLAIN
        if inode.type in (FileType.CHAR, FileType.BLOCK):
            return layout, encode_rdev(*inode.rdev)
        if is_redirected(inode):
            return CHUNK_BASED, chunk_bits(inode.size) - BLOCK_BITS
        blocks = self._places.blocks[number]
        if not blocks:
            return layout, 0
        self._next_block += blocks
        return layout, self._next_block - blocks

    def _tail(self, number: int, node: Node) -> bytes:
        """What stands behind the inode and its xattrs."""
        tail = self._places.tails[number]
        if not tail:
            return b""
        if isinstance(node, Directory):
            *_, names = _directory_blocks(self._order.listings[number])
            return self._dirents(number, node, names)
        if node.type is FileType.SYMLINK:
            return node.target
        return node.data[-tail:] if node.data else NULL_CHUNK

    def _data_blocks(self, number: int, node: Node) -> Iterator[bytes]:
        """The whole blocks of an inode's data."""
        if isinstance(node, Directory):
            blocks = _directory_blocks(self._order.listings[number])
            for names in islice(blocks, self._places.blocks[number]):
                yield self._dirents(number, node, names).ljust(BLOCK, b"\0")
            return
        data = node.target if node.type is FileType.SYMLINK else node.data or b""
        size = self._places.blocks[number] * BLOCK
        yield data[:size].ljust(size, b"\0")

    def _dirents(self, number: int, directory: Directory, names: list[bytes]) -> bytes:
        """One block of a directory: fixed-size entries, then the names."""
        offset = DIRENT.size * len(names)
        nids, kinds, pack = self._places.nids, self._kinds, DIRENT.pack
        number_of: Callable[[int, Directory, bytes], int] = self._order.number_of
        entries: list[bytes] = []
        for name in names:
            child = number_of(number, directory, name)
            entries.append(pack(nids[child], offset, kinds[child]))
            offset += len(name)
        return b"".join(entries + names)


def _directory_blocks(names: list[bytes]) -> Iterator[list[bytes]]:
    """The names of a directory as they are spread over its blocks."""
    used = first = 0
    for position, name in enumerate(names):
        size = DIRENT.size + len(name)
        if used + size > BLOCK:
            yield names[first:position]
            first, used = position, 0
        used += size
    yield names[first:]
