"""What an image can hold: everything a tree may state is checked here, once, before a byte is written."""

from __future__ import annotations

from itertools import islice
from typing import NoReturn

from als.erofs.layout import MAX_CHUNK_BITS, MAX_NAME, MAX_TARGET
from als.erofs.profile import Profile
from als.erofs.xattrs import MAX_NAME as MAX_XATTR_NAME
from als.erofs.xattrs import MAX_VALUE, escape, split_name
from als.errors import Unsupported
from als.model.tree import Directory, FileType, Inode, Node, Tree

_FILE, _DIR, _SYMLINK = FileType.FILE, FileType.DIR, FileType.SYMLINK
_MAX_FILE = 1 << MAX_CHUNK_BITS
_U32 = 0xFFFFFFFF
_NANOSECONDS = 999_999_999
_MAX_XATTRS = 4096
_MAX_WALK = 10_000_000
"""Names to pass in search of a path: in a tree with a loop, which is refused, the search might never end."""
_MAX_XATTR_BYTES = 128 << 10
"""Names and values of one inode together; with the entries' headers and padding that still fits EROFS' 256 KiB."""


class Checker:
    """Refuses what EROFS, the kernel or this kind of image cannot hold, naming the path."""

    def __init__(self, tree: Tree, profile: Profile) -> None:
        self._tree = tree
        self._profile = profile
        for name in profile.hidden:
            if name in tree.root.entries:
                self.refuse(tree.root.entries[name], "the image uses a name that als needs for its forest of objects")

    def refuse(self, node: Node, what: str) -> NoReturn:
        """Raise, with the first path of this node. Finding it takes a walk, which costs nothing where all is well."""
        names = islice(self._tree.walk(), _MAX_WALK)
        path = next((path for path, found in names if found is node), b"")
        where = "/" + path.decode(errors="backslashreplace")
        raise Unsupported(what, where=where[:1024])

    def directory(self, directory: Directory) -> None:
        """Check the names in a directory.

        :raises Unsupported: one of them cannot be a file's name.
        """
        entries = directory.entries
        for name in entries:
            if not 0 < len(name) <= MAX_NAME:
                self.refuse(entries[name], f"a name of {len(name)} bytes")
            if b"/" in name or b"\0" in name:
                self.refuse(entries[name], f"{name!r} cannot be a name")
        for name in (b".", b".."):
            if name in entries:
                self.refuse(entries[name], f"{name!r} cannot be a name")
        if directory.opaque and not self._profile.layer:
            self.refuse(directory, "an opaque directory in a whole image")

    def node(self, node: Node) -> None:
        """Check an inode's attributes.

        :raises Unsupported: the image cannot hold one of them.
        """
        is_directory = isinstance(node, Directory)
        inode = node.inode if isinstance(node, Directory) else node
        kind = inode.type
        if is_directory != (kind is _DIR):
            self.refuse(node, f"a {kind.value} where there can be none")
        if not (0 <= inode.uid <= _U32 and 0 <= inode.gid <= _U32 and 0 <= inode.mode <= 0o7777):
            self.refuse(node, f"owner {inode.uid}:{inode.gid} and mode {inode.mode:o} do not fit their fields")
        if not (-(1 << 63) <= inode.mtime < 1 << 63 and 0 <= inode.mtime_ns <= _NANOSECONDS):
            self.refuse(node, f"mtime {inode.mtime} s {inode.mtime_ns} ns does not fit its fields")
        if kind is _FILE:
            self._file(node, inode)
        elif kind is _SYMLINK:
            if not 0 < len(inode.target) <= MAX_TARGET or b"\0" in inode.target:
                self.refuse(node, f"a symlink target of {len(inode.target)} bytes, or with a NUL")
        elif kind is FileType.WHITEOUT:
            if not self._profile.layer:
                self.refuse(node, "a whiteout in a whole image")
        elif kind in (FileType.CHAR, FileType.BLOCK):
            self._device(node, inode)
        if inode.xattrs:
            self._xattrs(node, inode)

    def _file(self, node: Node, inode: Inode) -> None:
        size, content = inode.size, inode.content
        if inode.data is not None:
            if len(inode.data) != size:
                self.refuse(node, f"{len(inode.data)} bytes of data in a file of {size} bytes")
        elif size and content is None:
            self.refuse(node, f"{size} bytes without a content")
        elif size < 0 or size > _MAX_FILE:
            self.refuse(node, f"a file of {size} bytes")
        elif size and content is not None and len(content.name) != 32:
            self.refuse(node, f"a content name of {len(content.name)} bytes")

    def _device(self, node: Node, inode: Inode) -> None:
        major, minor = inode.rdev
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            self.refuse(node, f"device number {major}:{minor}, which the kernel does not have")
        if inode.rdev == (0, 0) and inode.type is FileType.CHAR:
            self.refuse(node, "a character device 0:0, which overlay takes for a whiteout")

    def _xattrs(self, node: Node, inode: Inode) -> None:
        total = 0
        if len({name for name, _ in inode.xattrs}) != len(inode.xattrs):
            self.refuse(node, "an xattr twice")
        for name, value in inode.xattrs:
            escaped = escape(name, self._profile.escaped)
            if not 0 < len(escaped) <= MAX_XATTR_NAME or b"\0" in name:
                self.refuse(node, f"xattr {name[:80]!r}: a name of {len(escaped)} bytes, or with a NUL")
            if len(value) > MAX_VALUE:
                self.refuse(node, f"xattr {name[:80]!r}: a value of {len(value)} bytes")
            if name.startswith((b"user.", b"trusted.", b"security.")) and not split_name(name)[1]:
                self.refuse(node, f"xattr {name!r}: nothing behind the prefix")
            total += len(escaped) + len(value)
        if total > _MAX_XATTR_BYTES or len(inode.xattrs) > _MAX_XATTRS:
            self.refuse(node, f"{len(inode.xattrs)} xattrs with {total} bytes")
