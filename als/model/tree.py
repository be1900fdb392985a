"""The one normal form of a layer's content.

Every format produces a :class:`Tree`, and everything else (the EROFS writer, the store, the command line) reads nothing
but a `Tree`. It holds what a directory holds after extraction: no repeated names, no dangling hardlinks, whiteouts as
entries of their own type, opaque directories as a flag. It is pure data; :class:`als.model.builder.TreeBuilder` makes it.

Paths and names are bytes, as in the kernel. A path in a `Tree` has no leading slash and the root is ``b""``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class FileType(enum.Enum):
    """What a name stands for; the values are those that ``als files`` prints."""

    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"
    CHAR = "char"
    BLOCK = "block"
    FIFO = "fifo"
    WHITEOUT = "whiteout"

    __hash__ = object.__hash__
    """As :class:`als.model.entry.EntryType` has it."""


class Content(NamedTuple):
    """Where the bytes of a regular file that is not empty are to be found.

    `name` (32 bytes) is the file's name in a layer's forest of objects; it must be known before the bytes are. Where a
    format knows the sha256 of the whole file, `name` is that and `sha256` says so; otherwise `name` is derived from where
    the bytes come from, and `sha256` is None until they came.
    """

    name: bytes
    sha256: bytes | None

    @classmethod
    def of_sha256(cls, sha256: bytes) -> Content:
        """Content whose sha256 is known."""
        return cls(sha256, sha256)


@dataclass(frozen=True, slots=True, eq=False)
class Inode:
    """A file of any type with its attributes.

    Identity matters: two names with the same `Inode` object are hardlinks of each other. A regular file has either size
    0, or `content`, or `data` (its bytes, for files small enough to live in the metadata image), or both.
    """

    type: FileType
    mode: int
    """Permission bits with setuid, setgid and sticky: at most 0o7777."""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Seconds since the epoch; may be negative."""
    mtime_ns: int = 0
    """Nanoseconds, 0 to 999,999,999, added to `mtime`."""
    size: int = 0
    """Bytes, of regular files; 0 for everything else."""
    rdev: tuple[int, int] = (0, 0)
    """Major and minor number of a device."""
    target: bytes = b""
    """Where a symlink leads."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    """Full name and value, sorted by name."""
    content: Content | None = None
    data: bytes | None = None


@dataclass(slots=True, eq=False)
class Directory:
    """A directory: its own inode and what is in it."""

    inode: Inode
    entries: dict[bytes, Node] = field(default_factory=dict)
    opaque: bool = False
    """Nothing of the same directory in lower layers is to be seen."""


Node = Directory | Inode


def inode_of(node: Node) -> Inode:
    """The inode behind a name."""
    return node.inode if isinstance(node, Directory) else node


WHITEOUT = Inode(FileType.WHITEOUT, 0)
"""The inode all whiteouts share: they have no attributes."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The content of one layer."""

    root: Directory

    def child(self, directory: Directory, name: bytes) -> Node | None:
        """What a name in a directory of this tree stands for; None: there is no such name."""
        return directory.entries.get(name)

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Every name, parents before children, siblings in byte order; the root comes first as ``b""``."""
        stack: list[tuple[bytes, Node]] = [(b"", self.root)]
        while stack:
            path, node = stack.pop()
            yield path, node
            if isinstance(node, Directory):
                prefix = path + b"/" if path else b""
                stack.extend((prefix + name, node.entries[name]) for name in sorted(node.entries, reverse=True))

    def find(self, path: bytes) -> Node | None:
        """The node at `path` (leading and doubled slashes are ignored, symlinks are not followed), or None."""
        node: Node = self.root
        for name in path.split(b"/"):
            if not name or name == b".":
                continue
            if not isinstance(node, Directory) or name not in node.entries:
                return None
            node = node.entries[name]
        return node

    def contents(self) -> dict[bytes, tuple[Content, int]]:
        """Every content that has to be in the layer's forest, by its name there, with its size in bytes."""
        return {
            node.content.name: (node.content, node.size)
            for _, node in self.walk()
            if isinstance(node, Inode) and node.content is not None and node.data is None
        }

    def link_counts(self) -> dict[Inode, int]:
        """How many names each inode has that is not a directory (whiteouts aside)."""
        counts: dict[Inode, int] = {}
        for _, node in self.walk():
            if isinstance(node, Inode) and node.type is not FileType.WHITEOUT:
                counts[node] = counts.get(node, 0) + 1
        return counts
