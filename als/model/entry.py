"""One entry of a layer archive as its format states it, before the entries together become a tree."""

from __future__ import annotations

import enum
from typing import NamedTuple


class EntryType(enum.Enum):
    """What an archive entry declares."""

    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHAR = "char"
    BLOCK = "block"
    FIFO = "fifo"

    __hash__ = object.__hash__
    """There is one object of each, and what `Enum` has is computed in Python: slow, with several look-ups for each name."""


class Entry(NamedTuple):
    """What an archive says of one name.

    Nothing here has been checked but the archive's own syntax: `path` and `linkname` are as written (they may be
    absolute, hold ``..`` or a whiteout's ``.wh.`` prefix). :class:`als.model.builder.TreeBuilder` gives them meaning.

    A tuple, for two are made of each name of a layer, and a frozen dataclass takes five times as long.
    """

    path: bytes
    type: EntryType
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    mtime_ns: int = 0
    size: int = 0
    """Bytes of the file as a reader sees it, holes included."""
    stored: int = 0
    """Bytes of payload that follow in the archive; less than `size` for a sparse file."""
    linkname: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    extents: tuple[tuple[int, int], ...] | None = None
    """Of a sparse file: (offset, length) of each run of data, in order; what lies between are holes. None: not sparse."""
