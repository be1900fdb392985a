"""Reads an image that :mod:`als.erofs.writer` wrote, back into the tree it was made of.

What is lost on the way: a file that had both `data` and `content` comes back with `data` alone, and fs-verity digests are not
read. The image comes from our own store, but a disk, or somebody with access to it, may have changed it: every offset is
checked, and because nothing in an honest image overlaps, the bytes that inodes and directories claim together cannot exceed the
image. That one budget bounds time and memory, whatever the image states; loops of directories are found as they are entered.
"""

from __future__ import annotations

import mmap
import re
import stat
from pathlib import Path
from typing import NoReturn

from als.erofs.layout import (
    BLOCK,
    BLOCK_BITS,
    CHUNK_BASED,
    COMPACT,
    COMPOSEFS_HEADER,
    COMPOSEFS_MAGIC,
    COMPOSEFS_VERSION,
    DIRENT,
    EXTENDED,
    FEATURE_COMPAT,
    FLAT_INLINE,
    FLAT_PLAIN,
    FORMAT_BITS,
    MAX_NAME,
    MAX_TARGET,
    SLOT,
    SUPER,
    SUPER_MAGIC,
    SUPER_OFFSET,
    XATTR_ENTRY,
    XATTR_HEADER,
    XATTR_ID,
    decode_rdev,
    round_up,
)
from als.erofs.profile import Profile
from als.erofs.xattrs import Xattr, join_name, unescape
from als.errors import StoreDamaged
from als.model.tree import WHITEOUT, Content, Directory, FileType, Inode, Node, Tree

_TYPES = {bits: kind for kind, bits in FORMAT_BITS.items()}
_EMPTY = Inode(FileType.DIR, 0)


def read_image(image: bytes | memoryview, profile: Profile, *, names_are_sha256: bool = True) -> Tree:
    """The tree that is in an image of this profile.

    :param image: all of it; a ``memoryview`` of an ``mmap`` does.
    :param names_are_sha256: whether the names in the forest are the sha256 of the contents.
    :raises als.errors.StoreDamaged: the writer has not written it.
    """
    return _Reader(memoryview(image), profile, names_are_sha256).tree()


def read_image_file(path: Path, profile: Profile, *, names_are_sha256: bool = True) -> Tree:
    """As :func:`read_image`, of a file.

    :raises OSError: it cannot be read.
    :raises als.errors.StoreDamaged: the writer has not written it.
    """
    return read_image(_mapped(path), profile, names_are_sha256=names_are_sha256)


def read_root_inode(path: Path, profile: Profile) -> Inode:
    """The root directory's attributes, without reading the rest of the image file.

    :raises OSError: it cannot be read.
    :raises als.errors.StoreDamaged: the writer has not written it.
    """
    return _Reader(_mapped(path), profile, names_are_sha256=True).root().inode


def _mapped(path: Path) -> memoryview:
    if not path.stat().st_size:
        raise StoreDamaged("an empty file instead of an image", where=str(path))
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # Not closed here: an error on its way to the caller still refers to it, and goes before it.
    return memoryview(data)


class ImageNames:
    """An image in which names are looked up one by one (:class:`als.model.merged.Names`). Not thread-safe.

    Reading all of an image takes 13 microseconds a file, which is long where somebody waits for the start of a container and a
    hundred paths of its layers are of interest. Here, a directory's names are read when one of them is asked for, an inode when
    its name is. The directories that come out have no `entries`; what is in them is asked of :meth:`child`.

    :param path: an image file of this profile; it stays mapped as long as this object lives.
    :raises OSError: it cannot be read.
    :raises als.errors.StoreDamaged: the writer has not written it; as from `child`.
    """

    def __init__(self, path: Path, profile: Profile) -> None:
        self._reader = _Reader(_mapped(path), profile, names_are_sha256=False)
        self.root = self._reader.root()
        self._nids = {self.root: self._reader.root_nid}
        self._names: dict[Directory, dict[bytes, int]] = {}
        self._nodes: dict[int, Node] = {}

    def child(self, directory: Directory, name: bytes) -> Node | None:
        """What a name in a directory that came from here stands for; None: there is no such name."""
        if directory not in self._names:
            self._names[directory] = self._reader.names(self._nids[directory])
        nid = self._names[directory].get(name)
        if nid is None:
            return None
        if nid not in self._nodes:
            node = self._nodes[nid] = self._reader.node(nid)
            if isinstance(node, Directory):
                self._nids[node] = nid
        return self._nodes[nid]


class _Raw:
    """An inode's fields as they stand in the image, and where what belongs to it lies."""

    __slots__ = ("gid", "kind", "layout", "mode", "mtime", "mtime_ns", "size", "tail", "uid", "union", "xattrs")

    def __init__(self) -> None:
        self.kind = FileType.FILE
        self.layout = self.mode = self.uid = self.gid = self.mtime = self.mtime_ns = self.size = self.union = 0
        self.tail = 0
        self.xattrs: list[Xattr] = []


class _Reader:
    def __init__(self, image: memoryview, profile: Profile, names_are_sha256: bool) -> None:
        self._image = image
        self._profile = profile
        self._names_are_sha256 = names_are_sha256
        self._budget = len(image)
        self._inodes: dict[int, Inode] = {}
        self._shared: dict[int, Xattr] = {}
        self._metacopy, self._opaque, self._leads_to = profile.metacopy, profile.opaque, profile.redirect
        self._ours = frozenset((self._metacopy, self._opaque, self._leads_to))
        names = (
            re.escape(b"/" + profile.forest) + rb"/([0-9a-f]{64})()" if profile.forest else rb"/([0-9a-f]{2})/([0-9a-f]{62})"
        )
        self._redirect = re.compile(names)
        header = COMPOSEFS_HEADER.unpack(self._take(0, COMPOSEFS_HEADER.size, "the header"))
        if (header[0], header[1], header[3]) != (COMPOSEFS_MAGIC, COMPOSEFS_VERSION, profile.composefs_version):
            self._damaged("not an image of ours")
        fields = SUPER.unpack(self._take(SUPER_OFFSET, SUPER.size, "the superblock"))
        magic, _, features, bits, slots, self.root_nid, _, *epoch, blocks, inodes_block, shared_block = fields[:12]
        if (magic, features, bits, slots) != (SUPER_MAGIC, FEATURE_COMPAT, BLOCK_BITS, 0) or inodes_block or any(fields[14:]):
            self._damaged("a superblock that als does not write")
        if blocks * BLOCK != len(image):
            self._damaged(f"{len(image)} bytes where the superblock states {blocks} blocks")
        self._epoch: tuple[int, int] = (epoch[0], epoch[1])
        self._shared_area = shared_block * BLOCK

    def root(self) -> Directory:
        """The root directory, without its names."""
        raw = self._raw(self.root_nid)
        if raw.kind is not FileType.DIR:
            self._damaged("the root is not a directory")
        root = Directory(_EMPTY)
        self._finish_directory(root, raw, is_root=True)
        return root

    def tree(self) -> Tree:
        """Read everything, directory by directory."""
        raw = self._raw(self.root_nid)
        if raw.kind is not FileType.DIR:
            self._damaged("the root is not a directory")
        root = Directory(_EMPTY)
        entered = {self.root_nid}
        queue: list[tuple[Directory, int, _Raw]] = [(root, self.root_nid, raw)]
        for directory, nid, raw in queue:  # which grows on the way
            for name, child in self._names(raw):
                if name in (b".", b"..") or (directory is root and self._is_hidden(name, child)):
                    continue
                if name in directory.entries:
                    self._damaged(f"the name {name[:80]!r} twice in directory {nid}")
                node = self._node(child, entered, queue)
                directory.entries[name] = node
            self._finish_directory(directory, raw, is_root=directory is root)
        return Tree(root)

    def names(self, nid: int) -> dict[bytes, int]:
        """The names in a directory and the nids they lead to."""
        names = self._names(self._raw(nid, charged=False))
        return {name: child for name, child in names if nid != self.root_nid or not self._is_hidden(name, child)}

    def node(self, nid: int) -> Node:
        """What a name leads to; a directory comes without its names."""
        raw = self._raw(nid)
        if raw.kind is not FileType.DIR:
            return self._inode(nid, raw)
        directory = Directory(_EMPTY)
        self._finish_directory(directory, raw, is_root=False)
        return directory

    def _node(self, nid: int, entered: set[int], queue: list[tuple[Directory, int, _Raw]]) -> Node:
        """What a name leads to; a directory is queued to be read."""
        known = self._inodes.get(nid)
        if known is not None:
            return known
        if nid in entered:
            self._damaged(f"a second name for directory {nid}")
        raw = self._raw(nid)
        if raw.kind is FileType.DIR:
            entered.add(nid)
            directory = Directory(_EMPTY)
            queue.append((directory, nid, raw))
            return directory
        inode = self._inodes[nid] = self._inode(nid, raw)
        return inode

    def _is_hidden(self, name: bytes, nid: int) -> bool:
        """Whether this name in the root is one of the whiteouts that hide the forest."""
        if name not in self._profile.hidden:
            return False
        raw = self._raw(nid, charged=False)
        if raw.kind is not FileType.CHAR or raw.union:
            self._damaged(f"/{name.decode()} does not hide the forest")
        return True

    def _damaged(self, what: str) -> NoReturn:
        raise StoreDamaged(what, where="metadata image", hint="remove the image and pull it again")

    def _take(self, offset: int, size: int, what: str) -> bytes:
        """Bytes of the image, all of which must be there."""
        if offset < 0 or size < 0 or offset + size > len(self._image):
            self._damaged(f"{what} lies outside the image ({size} bytes at {offset} of {len(self._image)})")
        return bytes(self._image[offset : offset + size])

    def _charge(self, size: int) -> None:
        """Count bytes that belong to one inode only."""
        self._budget -= size
        if self._budget < 0:
            self._damaged("inodes that overlap")

    def _raw(self, nid: int, *, charged: bool = True) -> _Raw:
        """Read an inode and its xattrs."""
        position = nid * SLOT
        what = f"inode {nid}"
        head = self._take(position, COMPACT.size, what)
        extended = head[0] & 1
        shape = EXTENDED if extended else COMPACT
        fields = shape.unpack(self._take(position, shape.size, what) if extended else head)
        raw = _Raw()
        layout, words, mode = fields[:3]
        if extended:
            _, raw.size, raw.union, _, raw.uid, raw.gid, raw.mtime, raw.mtime_ns, _ = fields[3:]
        else:
            _, raw.size, later, raw.union, _, raw.uid, raw.gid, _ = fields[3:]
            raw.mtime, raw.mtime_ns = self._epoch[0] + later, self._epoch[1]
        raw.layout = layout >> 1
        kind = _TYPES.get(stat.S_IFMT(mode))
        if kind is None or raw.layout not in (FLAT_PLAIN, FLAT_INLINE, CHUNK_BASED) or raw.mtime_ns > 999_999_999:
            self._damaged(f"{what} is of a kind that als does not write")
        raw.kind, raw.mode = kind, stat.S_IMODE(mode)
        area = XATTR_HEADER.size + 4 * (words - 1) if words else 0
        raw.tail = position + shape.size + area
        if charged:
            self._charge(shape.size + area)
        if area:
            raw.xattrs = self._xattrs(position + shape.size, area, what)
        return raw

    def _xattrs(self, start: int, size: int, what: str) -> list[Xattr]:
        """The xattrs of an inode, as stored."""
        area = self._take(start, size, f"xattrs of {what}")
        _, count = XATTR_HEADER.unpack_from(area)
        position = XATTR_HEADER.size + XATTR_ID.size * count
        if position > size:
            self._damaged(f"{what} has more shared xattrs than its xattrs have room for")
        ids = area[XATTR_HEADER.size : position]
        result = [self._shared_xattr(number) for (number,) in XATTR_ID.iter_unpack(ids)]
        while position < size:
            xattr, length = self._xattr(area, position, what)
            result.append(xattr)
            position += length
        names = {name for name, _ in result}
        if len(names) != len(result):
            self._damaged(f"{what} has an xattr twice")
        return result

    def _shared_xattr(self, number: int) -> Xattr:
        known = self._shared.get(number)
        if known is not None:
            return known
        start = self._shared_area + number * 4
        what = f"shared xattr {number}"
        head = self._take(start, XATTR_ENTRY.size, what)
        length, _, value = XATTR_ENTRY.unpack(head)
        xattr, used = self._xattr(self._take(start, XATTR_ENTRY.size + length + value, what), 0, what)
        self._charge(used)
        self._shared[number] = xattr
        return xattr

    def _xattr(self, area: bytes, position: int, what: str) -> tuple[Xattr, int]:
        """The entry at `position`, and its length with padding."""
        if position + XATTR_ENTRY.size > len(area):
            self._damaged(f"a truncated xattr in {what}")
        length, index, size = XATTR_ENTRY.unpack_from(area, position)
        start = position + XATTR_ENTRY.size
        end = start + length + size
        name = join_name(index, area[start : start + length])
        if name is None or not name or end > len(area):
            self._damaged(f"an xattr in {what} that als does not write")
        return (name, area[start + length : end]), round_up(end - position, 4)

    def _data(self, nid: int, raw: _Raw) -> bytes:
        """The data of an inode that has them in the image."""
        what = f"data of inode {nid}"
        if raw.layout == CHUNK_BASED:
            self._damaged(f"{what} are not in the image")
        whole = raw.size
        tail = b""
        if raw.layout == FLAT_INLINE:
            whole = raw.size & -BLOCK
            tail = self._take(raw.tail, raw.size - whole, what)
        self._charge(raw.size)
        return (self._take(raw.union * BLOCK, whole, what) if whole else b"") + tail

    def _names(self, raw: _Raw) -> list[tuple[bytes, int]]:
        """All names in a directory with the nids they lead to."""
        data = self._data(0, raw)
        result: list[tuple[bytes, int]] = []
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            if len(block) < DIRENT.size:
                self._damaged("a truncated directory")
            first = DIRENT.unpack_from(block)[1]
            if not first or first % DIRENT.size or first > len(block):
                self._damaged("a directory whose entries have no end")
            entries = list(DIRENT.iter_unpack(block[:first]))
            ends = [offset for _, offset, _ in entries[1:]] + [len(block)]
            for (nid, offset, _), end in zip(entries, ends, strict=True):
                name = block[offset:end]
                if end == len(block):
                    name = name.rstrip(b"\0")
                if not 0 < len(name) <= MAX_NAME or b"/" in name or b"\0" in name:
                    self._damaged(f"{name[:80]!r} as a name")
                result.append((name, nid))
        return result

    def _attributes(self, raw: _Raw) -> tuple[dict[bytes, bytes], tuple[Xattr, ...]]:
        """Our own xattrs of an inode, and those of the layer with their escapes undone."""
        own: dict[bytes, bytes] = {}
        others: list[Xattr] = []
        for name, value in raw.xattrs:
            if name in self._ours:
                own[name] = value
            else:
                others.append((unescape(name, self._profile.escaped), value))
        return own, tuple(sorted(others))

    def _finish_directory(self, directory: Directory, raw: _Raw, *, is_root: bool) -> None:
        own, xattrs = self._attributes(raw)
        opaque = own.pop(self._opaque, None)
        if own or opaque not in (None, b"y"):
            self._damaged("a directory with xattrs that als does not give to one")
        directory.opaque = opaque is not None and (self._profile.layer or not is_root)
        directory.inode = Inode(FileType.DIR, raw.mode, raw.uid, raw.gid, raw.mtime, raw.mtime_ns, xattrs=xattrs)

    def _inode(self, nid: int, raw: _Raw) -> Inode:
        """The inode behind a name that is no directory."""
        if raw.kind is FileType.CHAR and not raw.union and self._profile.layer:
            return WHITEOUT
        own, xattrs = self._attributes(raw)
        size, rdev, target = 0, (0, 0), b""
        content, data = None, None
        if raw.kind is FileType.FILE:
            size = raw.size
            if raw.layout == CHUNK_BASED:
                content = self._content(nid, own)
            elif size:
                data = self._data(nid, raw)
        elif raw.kind is FileType.SYMLINK:
            if not 0 < raw.size <= MAX_TARGET:
                self._damaged(f"inode {nid} is a symlink with a target of {raw.size} bytes")
            target = self._data(nid, raw)
        elif raw.kind in (FileType.CHAR, FileType.BLOCK):
            rdev = decode_rdev(raw.union)
        if own and content is None:
            self._damaged(f"inode {nid} has overlay's xattrs without need")
        owner = (raw.mode, raw.uid, raw.gid, raw.mtime, raw.mtime_ns)
        return Inode(raw.kind, *owner, size, rdev, target, xattrs, content, data)

    def _content(self, nid: int, own: dict[bytes, bytes]) -> Content:
        match = self._redirect.fullmatch(own.get(self._leads_to, b""))
        if match is None or self._metacopy not in own or self._opaque in own:
            self._damaged(f"inode {nid} leads nowhere")
        name = bytes.fromhex((match[1] + match[2]).decode())
        return Content(name, name if self._names_are_sha256 else None)
