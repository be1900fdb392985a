"""Whether a table of contents tells of what a layer shows.

A client that asks for a layer by its table of contents is to see what the table says: the same names with the same attributes,
the same content under them, the same hardlinks. Two things may differ, because the formats are so:

* stargz-snapshotter rounds times to seconds.
* Its own files in the layer's root (the table itself, and the marks for what to fetch first) are in the stream and not in
  the table. podman's own pull by table of contents leaves them out; als shows the stream, so it shows them as well. They
  are let pass only as that tool writes them: the table's text is what the digest promises, a mark has one certain byte,
  and nobody can run either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from als.formats.toc.entries import BOOKKEEPING, TOC_NAME
from als.model.digest import Digest
from als.model.paths import show
from als.model.tree import Directory, FileType, Inode, Node, Tree, inode_of

_MARK = b"\x0f"
"""stargz-snapshotter, ``estargz/types.go``: landmarkContents."""
_NOT_PLAIN = 0o7111
_HALF_A_SECOND = 500_000_000


def difference(table: Tree, layer: Tree, stargz: Digest | None = None) -> str:
    """The first thing in which a table of contents and a layer differ, in words; "" where they are equal.

    :param stargz: of a layer by stargz-snapshotter, the digest of the table's text.
    """
    return next(_differences(table, layer, stargz), "")


def _differences(table: Tree, layer: Tree, stargz: Digest | None) -> Iterator[str]:
    partner: dict[Inode, Inode] = {}
    """The file of the layer for one of the table, and the other way round: hardlinks are the same ones."""
    stack: list[tuple[bytes, Node, Node]] = [(b"", table.root, layer.root)]
    while stack:
        path, ours, theirs = stack.pop()
        one, other = inode_of(ours), inode_of(theirs)
        for what in _unlike(one, other, rounded=stargz is not None):
            yield f"{show(path)}: another {what}"
        if isinstance(ours, Directory) and isinstance(theirs, Directory):
            if ours.opaque != theirs.opaque:
                yield f"{show(path)}: opaque in one of them only"
            for name in sorted(ours.entries.keys() | theirs.entries.keys(), reverse=True):
                below = path + b"/" + name if path else name
                if name not in theirs.entries:
                    yield f"{show(below)}: only in the table"
                elif name in ours.entries:
                    stack.append((below, ours.entries[name], theirs.entries[name]))
                elif stargz is None or not _is_bookkeeping(below, theirs.entries[name], stargz):
                    yield f"{show(below)}: only in the layer"
        elif one.type is not FileType.WHITEOUT and (
            partner.setdefault(one, other) is not other or partner.setdefault(other, one) is not one
        ):
            yield f"{show(path)}: a hardlink to something else"


def _is_bookkeeping(path: bytes, node: Node, toc: Digest) -> bool:
    """Whether this is a file as stargz-snapshotter adds it, which can do no harm to a container that does not expect it."""
    if path not in BOOKKEEPING or isinstance(node, Directory):
        return False
    plain = node.type is FileType.FILE and not node.mode & _NOT_PLAIN and not node.xattrs
    return plain and _content(node) == (toc.raw if path == TOC_NAME else hashlib.sha256(_MARK).digest())


def _unlike(table: Inode, layer: Inode, *, rounded: bool) -> Iterator[str]:
    """The attributes in which two inodes differ."""
    if table.type is not layer.type:
        yield "type"
    if table.mode != layer.mode:
        yield "mode"
    if (table.uid, table.gid) != (layer.uid, layer.gid):
        yield "owner"
    if table.size != layer.size:
        yield "size"
    if table.type is FileType.FILE and _content(table) != _content(layer):
        yield "content"
    if table.target != layer.target:
        yield "target"
    if table.rdev != layer.rdev:
        yield "device number"
    if table.xattrs != layer.xattrs:
        yield "set of extended attributes"
    time = (layer.mtime, layer.mtime_ns)
    up = (layer.mtime + (layer.mtime_ns >= _HALF_A_SECOND), 0)
    if (table.mtime, table.mtime_ns) not in ((time, up) if rounded else (time,)):
        yield "time"


def _content(inode: Inode) -> bytes | None:
    """The sha256 of a regular file; None where the table does not commit to that of the whole file."""
    if inode.data is not None:
        return hashlib.sha256(inode.data).digest()
    if inode.content is not None:
        return inode.content.sha256
    return hashlib.sha256().digest()
