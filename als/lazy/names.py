"""The names of a layer as its index gives them, while its metadata image is still being written."""

from __future__ import annotations

from als.formats.index import LayerIndex
from als.model.builder import OPAQUE_MARKER, WHITEOUT_PREFIX
from als.model.entry import Entry, EntryType
from als.model.inodes import make_inode
from als.model.limits import DEFAULT_LIMITS
from als.model.paths import name_of, names_of
from als.model.tree import WHITEOUT, Content, Directory, FileType, Inode, Node

MAX_ENTRIES = 200_000
"""Of a layer that is looked into before its image is there: so many names are in memory in a quarter of a second."""
_MAX_LINKS = 10
"""Hardlinks to hardlinks; a writer names the first of a file's names."""


class IndexNames:
    """A layer's index, in which names are looked up one by one (:class:`als.model.merged.Names`). Not thread-safe.

    For what is fetched ahead, where nobody is harmed by a wrong answer: of what a layer may hold and hardly one does (names
    that lead through the layer's own symlinks, a name below a file), the tree knows better (:mod:`als.model.builder`).
    """

    def __init__(self, index: LayerIndex) -> None:
        self._index = index
        columns = index.columns
        text, starts = bytes(columns.text), (0, *columns.link_ends[:-1])
        ends = zip(starts, columns.path_ends, strict=False)
        names = names_of([text[start:end] for start, end in ends])
        self._numbers = {name: number for number, name in enumerate(names) if name is not None}
        self._folders = _parents(self._numbers)
        self._nodes: dict[bytes, Node | None] = {}
        self._paths: dict[Directory, bytes] = {}
        self.root = self._directory(b"")

    def child(self, directory: Directory, name: bytes) -> Node | None:
        """What a name in a directory that came from here stands for; None: there is no such name."""
        folder = self._paths[directory]
        path = folder + b"/" + name if folder else name
        if path not in self._nodes:
            self._nodes[path] = self._node(path, folder, name)
        return self._nodes[path]

    def _node(self, path: bytes, folder: bytes, name: bytes) -> Node | None:
        number = self._numbers.get(path)
        if path in self._folders or (number is not None and self._index.entry(number).type is EntryType.DIR):
            return self._directory(path)
        if number is not None:
            return self._inode(number)
        hidden = WHITEOUT_PREFIX + name
        return WHITEOUT if (folder + b"/" + hidden if folder else hidden) in self._numbers else None

    def _directory(self, path: bytes) -> Directory:
        marker = path + b"/" + OPAQUE_MARKER if path else OPAQUE_MARKER
        found = Directory(Inode(FileType.DIR, 0o755), opaque=marker in self._numbers)
        self._paths[found] = path
        return found

    def _inode(self, number: int) -> Inode | None:
        for _ in range(_MAX_LINKS):
            entry: Entry = self._index.entry(number)
            if entry.type is not EntryType.HARDLINK:
                name = self._index.content_name(number) if entry.size else None
                return make_inode(entry, DEFAULT_LIMITS, None if name is None else Content(name, self._index.sha256(number)))
            name = name_of(entry.linkname)
            target = self._numbers.get(name) if name is not None else None
            if target is None:
                break
            number = target
        return None


def _parents(paths: dict[bytes, int]) -> set[bytes]:
    """Every directory on the way to one of these, whether it is among them or not."""
    found: set[bytes] = set()
    level = {path.rpartition(b"/")[0] for path in paths}
    while level := level - found:
        found |= level
        level = {path.rpartition(b"/")[0] for path in level}
    return found
