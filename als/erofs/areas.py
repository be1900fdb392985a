"""The xattrs behind each inode, as bytes.

Nearly every inode of a layer is a file with a redirect and without xattrs of its own. What stands behind these differs in
nothing but the path and the fs-verity digest, so the first of them is the pattern for all others: a quarter less time for a
layer's image.
"""

from __future__ import annotations

from als.erofs.order import Order
from als.erofs.xattrs import NameFilter


class Areas:
    """Sizes first, then bytes, when it is known where the shared xattrs begin."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._filter = NameFilter()
        self._usual_size = 0
        self._usual = bytearray(len(order.inodes))
        """1: an inode of the kind that has a pattern."""
        self._pattern: tuple[bytes, bytes, bytes] | None = None
        """What stands before the digest, between it and the path, and behind."""

    def size(self, number: int) -> int:
        """Bytes of the xattrs behind an inode; to be asked for before :meth:`encode`."""
        order = self._order
        usual = order.sole_content(order.inodes[number]) is not None
        if usual and self._usual_size:
            self._usual[number] = 1
            return self._usual_size
        size = order.shared.area_size(order.xattrs(order.nodes[number]))
        if usual:
            self._usual[number] = 1
            self._usual_size = size
        return size

    def encode(self, number: int, start: int) -> bytes:
        """The xattrs behind an inode; the shared area begins `start` bytes into its first block."""
        order = self._order
        content = order.inodes[number].content if self._usual[number] else None
        if content is not None and self._pattern is not None:
            before, between, behind = self._pattern
            return before + order.verity_of(content.name) + between + order.profile.redirect_to(content.name) + behind
        xattrs = order.xattrs(order.nodes[number])
        area = order.shared.encode_area(xattrs, self._filter.of(xattrs), start)
        if content is not None:
            rest, _, behind = area.rpartition(order.profile.redirect_to(content.name))
            digest = order.verity_of(content.name)
            before, _, between = rest.rpartition(digest) if digest else (rest, b"", b"")
            self._pattern = before, between, behind
        return area
