"""The second pass: where each inode, and what belongs to it, will lie in the image.

The rules of padding are libcomposefs' (libcomposefs/lcfs-writer-erofs.c, ``compute_erofs_inodes``). EROFS itself asks for one
thing: that a tail which stands behind its inode does not cross the border of a block.
"""

from __future__ import annotations

from array import array

from als.erofs.areas import Areas
from als.erofs.layout import BLOCK, COMPACT, DIRENT, EXTENDED, NULL_CHUNK, SLOT, SUPER, SUPER_OFFSET, round_up
from als.erofs.order import Order
from als.model.tree import Directory, FileType, Inode, Node, inode_of

_U16 = 0xFFFF
_U32 = 0xFFFFFFFF


class Places:
    """Everything by inode number: `nids`, bytes of xattrs (`areas`), data blocks, bytes of the inline tail, compact or not."""

    def __init__(self, order: Order, areas: Areas) -> None:
        self._order = order
        self._areas = areas
        self.nids = array("Q")
        self.areas = array("I")
        self.blocks = array("I")
        self.tails = array("H")
        self.compact = bytearray()
        self.data_blocks = 0
        position = SUPER_OFFSET + SUPER.size
        for number, node in enumerate(order.nodes):
            position = self._place(number, node, round_up(position, SLOT))
        self.shared_start = round_up(position, SLOT)
        """Where the shared xattrs begin, in bytes."""
        self.data_start = round_up(self.shared_start + order.shared.size, BLOCK)
        """Where the data blocks begin, in bytes."""

    def _place(self, number: int, node: Node, position: int) -> int:
        """Find the place of one inode, at `position` or soon after; return where it ends."""
        blocks, tail = self._data_size(number, node)
        compact = self._fits_compact(number, node, blocks * BLOCK + tail)
        area = self._areas.size(node)
        head = (COMPACT.size if compact else EXTENDED.size) + area
        inode = inode_of(node)
        if inode.type is FileType.SYMLINK:
            padding, outside = _pad_symlink(position, head + tail)
        else:
            padding, outside = _pad_tail(position + head, tail) if tail else (0, False)
            if outside:
                padding = -position % BLOCK
        if outside:
            blocks, tail = blocks + 1, 0
        position += padding
        self.nids.append(position // SLOT)
        self.areas.append(area)
        self.blocks.append(blocks)
        self.tails.append(tail)
        self.compact.append(compact)
        self.data_blocks += blocks
        return position + head + tail

    def _data_size(self, number: int, node: Node) -> tuple[int, int]:
        """Whole blocks and bytes of the tail of an inode's data."""
        if isinstance(node, Directory):
            return _directory_size(self._order.listings[number])
        if node.type is FileType.SYMLINK:
            return 0, len(node.target)
        if node.data:
            blocks, tail = divmod(len(node.data), BLOCK)
            return (blocks + 1, 0) if tail > BLOCK // 2 else (blocks, tail)
        return 0, len(NULL_CHUNK) if node.size else 0

    def _fits_compact(self, number: int, node: Node, data_size: int) -> bool:
        """Whether the short form of an inode can hold its attributes."""
        inode = inode_of(node)
        size = inode.size if isinstance(node, Inode) else data_size
        return (
            inode.mtime == self._order.epoch[0]
            and inode.mtime_ns == self._order.epoch[1]
            and self._order.links[number] <= _U16
            and inode.uid <= _U16
            and inode.gid <= _U16
            and size <= _U32
        )


def _pad_symlink(position: int, size: int) -> tuple[int, bool]:
    """Bytes of padding before a symlink's inode, all of which lies in one block; and whether its target goes elsewhere."""
    crosses = position // BLOCK != (position + size - 1) // BLOCK
    return -position % BLOCK if crosses else 0, size >= BLOCK


def _pad_tail(start: int, tail: int) -> tuple[int, bool]:
    """Bytes of padding so that a tail which would begin at `start` does not cross a block's border; or that it cannot be so."""
    room = BLOCK - start % BLOCK
    if room >= tail:
        return 0, False
    padding = round_up(room, SLOT)
    return padding, BLOCK - (start + padding) % BLOCK < tail


def _directory_size(names: list[bytes]) -> tuple[int, int]:
    """Whole blocks and bytes of the tail of a directory with these names."""
    used = DIRENT.size * len(names) + sum(map(len, names))
    blocks = 0
    if used > BLOCK:
        used = 0
        for name in names:
            size = DIRENT.size + len(name)
            if used + size > BLOCK:
                blocks += 1
                used = 0
            used += size
    return (blocks + 1, 0) if used > BLOCK // 2 else (blocks, used)
