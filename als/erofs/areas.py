"""The xattrs behind each inode, as bytes.

Nearly every inode of a layer is a file with a redirect and without xattrs of its own. What stands behind these differs in
nothing but the path, so the first of them is the pattern for all others: a quarter less time for a layer's image.
"""

from __future__ import annotations

from als.erofs.order import Order
from als.erofs.xattrs import NameFilter
from als.model.tree import Node


class Areas:
    """Sizes first, then bytes, when it is known where the shared xattrs begin."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._filter = NameFilter()
        self._usual_size = 0
        self._pattern: tuple[bytes, bytes] | None = None

    def size(self, node: Node) -> int:
        """Bytes of the xattrs behind an inode."""
        order = self._order
        usual = order.sole_content(node) is not None
        if usual and self._usual_size:
            return self._usual_size
        size = order.shared.area_size(order.xattrs(node))
        if usual:
            self._usual_size = size
        return size

    def encode(self, node: Node, start: int) -> bytes:
        """The xattrs behind an inode; the shared area begins `start` bytes into its first block."""
        order = self._order
        content = order.sole_content(node)
        if content is not None and self._pattern is not None:
            before, behind = self._pattern
            return before + order.profile.redirect_to(content) + behind
        xattrs = order.xattrs(node)
        area = order.shared.encode_area(xattrs, self._filter.of(xattrs), start)
        if content is not None:
            before, _, behind = area.rpartition(order.profile.redirect_to(content))
            self._pattern = before, behind
        return area
