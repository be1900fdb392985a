"""The tree that the mount point shows: what there is, under which name and inode number. No I/O.

::

    /                               known references
    /<base64(reference)>/           known layers
    /<base64(reference)>/<digest>/  diff -> an absolute path, info, blob

The layout is that of containers/storage (``drivers/overlay/overlay.go``, ``getAdditionalLayerPath``): the reference is in
standard base64 with padding. That alphabet holds ``/``, but no encoding of an ASCII reference contains it: it would take a
``?`` or a DEL.

The directories exist for every reference and digest that can be written; only ``diff``, ``info`` and ``blob`` tell whether a
layer is served, and the client looks at nothing else. So it is the lookup *within* a layer's directory that waits for the
layer. Were it the lookup of that directory, all layers of an image would wait for each other, since the kernel looks up the
names of one directory one after the other (``fuse_lock_inode`` in its ``fs/fuse/inode.c``; the flag against that,
FUSE_PARALLEL_DIROPS, is not set by libfuse's low-level interface and cannot be by pyfuse3), and to give back a layer that is
not here any more would be to fetch it.

An inode number is a function of the path, not a counter: a restarted daemon gives every file the number that it had, so
that requests which outlive a daemon (see docs/architecture.md) still mean the same file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from als.errors import BadImage
from als.fuse.backend import ServedLayer
from als.model.digest import Digest

ROOT_INODE = 1
USE = "use"


@dataclass(frozen=True, slots=True)
class Node:
    """One file of the tree."""

    @property
    def path(self) -> str:
        """The path from the mount point, without a leading slash; "" for the root. It identifies the node."""
        raise AssertionError("a node has a kind")

    @property
    def mode(self) -> int:
        """st_mode. Everything belongs to root."""
        return stat.S_IFREG | 0o444

    @property
    def size(self) -> int:
        """st_size in bytes."""
        return 0

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]

    @property
    def inode(self) -> int:
        """The inode number, from 2**62 to 2**63 - 1: never 0 or 1, and no surprise where off_t is signed."""
        raw = hashlib.sha256(self.path.encode()).digest()
        return int.from_bytes(raw[:8], "big") & ((1 << 62) - 1) | (1 << 62)


@dataclass(frozen=True, slots=True)
class _Directory(Node):
    @property
    def mode(self) -> int:
        return stat.S_IFDIR | 0o755


@dataclass(frozen=True, slots=True)
class Root(_Directory):
    """The mount point."""

    @property
    def path(self) -> str:
        return ""

    @property
    def inode(self) -> int:
        return ROOT_INODE


@dataclass(frozen=True, slots=True)
class ReferenceDir(_Directory):
    """The directory of one image reference. It exists for every text, so that the client can go on to the digest."""

    reference: str

    @property
    def path(self) -> str:
        return base64.b64encode(self.reference.encode()).decode()


@dataclass(frozen=True, slots=True)
class LayerDir(_Directory):
    """The directory of one layer. It exists for every digest; whether the layer is served is seen from what it holds."""

    reference: str
    digest: str

    @property
    def path(self) -> str:
        return f"{ReferenceDir(self.reference).path}/{self.digest}"


@dataclass(frozen=True, slots=True)
class Diff(Node):
    """The symlink to the layer's root directory."""

    parent: LayerDir
    layer: ServedLayer

    @property
    def path(self) -> str:
        return f"{self.parent.path}/diff"

    @property
    def mode(self) -> int:
        return stat.S_IFLNK | 0o777

    @property
    def target(self) -> bytes:
        """Where the symlink leads."""
        return bytes(self.layer.diff)

    @property
    def size(self) -> int:
        return len(self.target)


@dataclass(frozen=True, slots=True)
class Info(Node):
    """The layer's info document."""

    parent: LayerDir
    layer: ServedLayer

    @property
    def path(self) -> str:
        return f"{self.parent.path}/info"

    @property
    def size(self) -> int:
        return len(self.layer.info)


@dataclass(frozen=True, slots=True)
class Blob(Node):
    """The layer's blob as the registry has it."""

    parent: LayerDir
    layer: ServedLayer

    @property
    def path(self) -> str:
        return f"{self.parent.path}/blob"

    @property
    def size(self) -> int:
        return self.layer.blob_size


LAYER_FILES = (b"diff", b"info", b"blob")


def layer_files(directory: LayerDir, layer: ServedLayer) -> Iterator[Node]:
    """What a layer's directory holds. ``use`` is not among it: it can be created but never exists."""
    yield Diff(directory, layer)
    yield Info(directory, layer)
    yield Blob(directory, layer)


def parse_reference(name: bytes) -> str | None:
    """The reference that a directory name stands for; None where it is not the strict base64 of some UTF-8 text.

    Strict, because two names for one reference would be two inodes for one directory. What makes a reference valid is for
    the backend to say.
    """
    try:
        raw = base64.b64decode(name, validate=True)
        text = raw.decode()
    except (binascii.Error, ValueError):
        return None
    if not text or base64.b64encode(raw) != name:
        return None
    return text


def parse_digest(name: bytes) -> str | None:
    """The digest that a directory name is; None where it is none."""
    try:
        return str(Digest.parse(name.decode("ascii")))
    except (BadImage, UnicodeDecodeError):
        return None


class NodeTable:
    """The nodes that the kernel knows of, with its lookup counts (libfuse, ``fuse_lowlevel.h``, on ``forget``).

    It grows with what the kernel caches and shrinks as that forgets; nothing else keeps a node.
    """

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {ROOT_INODE: Root()}
        self._lookups: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def remember(self, node: Node) -> bool:
        """Count one lookup of a node that is about to be told to the kernel; the newest description wins.

        :return: whether it may be told. Not so if another path has the same number, which nothing but malice brings about.
        """
        inode = node.inode
        if inode == ROOT_INODE:
            return True
        known = self._nodes.get(inode)
        if known is not None and known.path != node.path:
            return False
        self._nodes[inode] = node
        self._lookups[inode] = self._lookups.get(inode, 0) + 1
        return True

    def get(self, inode: int) -> Node | None:
        """The node with this number, if the kernel was told of it."""
        return self._nodes.get(inode)

    def forget(self, inode: int, lookups: int) -> None:
        """The kernel dropped that many lookups; the node goes with the last."""
        left = self._lookups.get(inode, 0) - lookups
        if left > 0:
            self._lookups[inode] = left
        elif inode != ROOT_INODE:
            self._lookups.pop(inode, None)
            self._nodes.pop(inode, None)
