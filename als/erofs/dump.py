"""The textual form of a composefs image (composefs-dump(5)), as ``mkcomposefs --from-file`` reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from als.erofs.layout import FORMAT_BITS, encode_rdev
from als.model.tree import Directory, FileType, Inode, Node, Tree, inode_of

_SPECIAL = {ord("\\"): "\\\\", ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def dump_lines(tree: Tree, *, verity: Mapping[bytes, bytes] | None = None) -> Iterator[str]:
    """One line (with its newline) per name of `tree`, breadth first as composefs numbers its inodes.

    A whiteout is a character device 0:0, an opaque directory one with the xattr ``trusted.overlay.opaque=y``.

    :param verity: fs-verity digests by content name, as for :func:`als.erofs.writer.write_image`.
    """
    counts = tree.link_counts()
    first_names: dict[Inode, bytes] = {}
    queue: deque[tuple[bytes, Node]] = deque([(b"", tree.root)])
    while queue:
        path, node = queue.popleft()
        target = first_names.get(node) if isinstance(node, Inode) else None
        if isinstance(node, Inode) and node.type is not FileType.WHITEOUT:
            first_names.setdefault(node, path)
        links = 1
        if isinstance(node, Directory):
            links = 2 + sum(isinstance(child, Directory) for child in node.entries.values())
            queue.extend((path + b"/" + name, node.entries[name]) for name in sorted(node.entries))
        elif node.type is not FileType.WHITEOUT:
            links = counts[node]
        yield _line(path or b"/", node, links, target, verity or {})


def _line(path: bytes, node: Node, links: int, hardlink_to: bytes | None, verity: Mapping[bytes, bytes]) -> str:
    inode = inode_of(node)
    kind = FileType.CHAR if inode.type is FileType.WHITEOUT else inode.type
    mode = FORMAT_BITS[kind] | inode.mode
    size = len(inode.target) if kind is FileType.SYMLINK else inode.size
    payload = inode.target or None
    digest = None
    if inode.content is not None and inode.data is None and inode.size:
        name = inode.content.name
        payload = f"{name[:1].hex()}/{name[1:].hex()}".encode()
        digest = verity[name].hex() if name in verity else None
    fields = [
        escape(path),
        str(size),
        f"{'' if hardlink_to is None else '@'}{mode:o}",
        str(links),
        str(inode.uid),
        str(inode.gid),
        str(encode_rdev(*inode.rdev)),
        f"{inode.mtime}.{inode.mtime_ns}",
        _optional(payload if hardlink_to is None else hardlink_to),
        _optional(inode.data if inode.data else None),
        digest or "-",
    ]
    xattrs = list(inode.xattrs)
    if isinstance(node, Directory) and node.opaque:
        xattrs.append((b"trusted.overlay.opaque", b"y"))
    fields += [f"{escape(name, equals=True)}={escape(value, equals=True)}" for name, value in xattrs]
    return " ".join(fields) + "\n"


def escape(text: bytes, *, equals: bool = False) -> str:
    """Backslash escapes for what is not printable ASCII, for spaces, and within xattrs for ``=``."""
    return "".join(
        _SPECIAL.get(byte) or (chr(byte) if 0x21 <= byte <= 0x7E and not (equals and byte == 0x3D) else f"\\x{byte:02x}")
        for byte in text
    )


def _optional(text: bytes | None) -> str:
    """A field that may be absent; one that is a lone dash is escaped."""
    if text is None:
        return "-"
    return "\\x2d" if text == b"-" else escape(text)
