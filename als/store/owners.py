"""The user and group IDs of a layer, by which clients choose the size of a container's user namespace."""

from __future__ import annotations

from collections.abc import Iterable

from als.model.tree import FileType, Node, inode_of

_MOST = 1000
"""So many are listed at most; a layer may have as many as it has files."""


def owners_of(nodes: Iterable[Node]) -> dict[str, list[int]]:
    """What ``owners.json`` holds for a layer with these files: ``uids`` and ``gids``, ascending."""
    inodes = map(inode_of, nodes)
    found = {(inode.uid, inode.gid) for inode in inodes if inode.type is not FileType.WHITEOUT}
    # The largest of them are what matters.
    return {"uids": sorted({uid for uid, _ in found})[-_MOST:], "gids": sorted({gid for _, gid in found})[-_MOST:]}
