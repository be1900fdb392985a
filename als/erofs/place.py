"""The second pass: where each inode, and what belongs to it, will lie in the image.

The rules of padding are libcomposefs' (libcomposefs/lcfs-writer-erofs.c, ``compute_erofs_inodes``). EROFS itself asks for one
thing: that a tail which stands behind its inode does not cross the border of a block.
"""

from __future__ import annotations

from array import array

from als.erofs.areas import Areas
from als.erofs.layout import BLOCK, COMPACT, DIRENT, EXTENDED, NULL_CHUNK, SLOT, SUPER, SUPER_OFFSET, round_up
from als.erofs.order import Order
from als.model.tree import FileType, Inode

_U16 = 0xFFFF
_U32 = 0xFFFFFFFF
_DIR, _SYMLINK = FileType.DIR, FileType.SYMLINK
_NULL_TAIL = len(NULL_CHUNK)


class Places:
    """Everything by inode number: `nids`, bytes of xattrs (`areas`), data blocks, bytes of the inline tail, compact or not."""

    def __init__(self, order: Order, areas: Areas) -> None:
        self._order = order
        count = len(order.inodes)
        self.nids = array("Q", bytes(8 * count))
        self.areas = array("I", bytes(4 * count))
        self.blocks = array("I", bytes(4 * count))
        self.tails = array("H", bytes(2 * count))
        self.compact = bytearray(count)
        self.data_blocks = 0
        self.shared_start = round_up(self._place_all(areas), SLOT)
        """Where the shared xattrs begin, in bytes."""
        self.data_start = round_up(self.shared_start + order.shared.size, BLOCK)
        """Where the data blocks begin, in bytes."""

    def _place_all(self, areas: Areas) -> int:
        """Find the place of each inode, as soon behind the one before it as may be; return where the last one ends."""
        order = self._order
        links, epoch, size_of = order.links, order.epoch, areas.size
        position = SUPER_OFFSET + SUPER.size
        for number, inode in enumerate(order.inodes):
            blocks, tail = self._data_size(number, inode)
            compact = (
                (inode.mtime, inode.mtime_ns) == epoch
                and links[number] <= _U16
                and inode.uid <= _U16
                and inode.gid <= _U16
                and (blocks * BLOCK + tail if inode.type is _DIR else inode.size) <= _U32
            )
            area = size_of(number)
            head = (COMPACT.size if compact else EXTENDED.size) + area
            position = (position + SLOT - 1) & -SLOT
            if inode.type is _SYMLINK:
                padding, outside = _pad_symlink(position, head + tail)
            else:
                padding, outside = _pad_tail(position + head, tail) if tail else (0, False)
                if outside:
                    padding = -position % BLOCK
            if outside:
                blocks, tail = blocks + 1, 0
            position += padding
            self.nids[number] = position // SLOT
            self.areas[number] = area
            self.blocks[number] = blocks
            self.tails[number] = tail
            self.compact[number] = compact
            self.data_blocks += blocks
            position += head + tail
        return position

    def _data_size(self, number: int, inode: Inode) -> tuple[int, int]:
        """Whole blocks and bytes of the tail of an inode's data."""
        if inode.type is _DIR:
            return _directory_size(self._order.listings[number][0])
        if inode.type is _SYMLINK:
            return 0, len(inode.target)
        if inode.data:
            blocks, tail = divmod(len(inode.data), BLOCK)
            return (blocks + 1, 0) if tail > BLOCK // 2 else (blocks, tail)
        return 0, _NULL_TAIL if inode.size else 0


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
