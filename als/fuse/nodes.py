"""The tree that the mount point shows: what there is, under which name and inode number. No I/O.

::

    /                               known references
    /<base64(reference)>/           known layers
    /<base64(reference)>/<digest>/  diff -> an absolute path, info, blob
    /.lazy/<key>/.als/<name>        the files of lazy layers, for overlay alone

The layout is that of containers/storage (``drivers/overlay/overlay.go``, ``getAdditionalLayerPath``): the reference is in
standard base64 with padding. That alphabet holds ``/``, but no encoding of an ASCII reference contains it: it would take a
``?`` or a DEL.

The directories exist for every reference and digest that can be written; only ``diff``, ``info`` and ``blob`` tell whether a
layer is served, and the client looks at nothing else. So it is the lookup *within* a layer's directory that waits for the
layer. Were it the lookup of that directory, all layers of an image would wait for each other, since the kernel looks up the
names of one directory one after the other where it did not agree to FUSE_PARALLEL_DIROPS (``fuse_lock_inode`` in its
``fs/fuse/inode.c``), and to give back a layer that is not here any more would be to fetch it.

An inode number is a function of the path, not a counter: a restarted daemon gives every file the number that it had, so
that requests which outlive a daemon still mean the same file. What a number means cannot be seen from it, so the nodes that the
kernel knows are written down (:mod:`als.fuse.journal`).

The file of a lazy layer has a number made of what commits to its bytes (:meth:`als.fuse.backend.LazyFiles.identity`), so that
however many layers have it, it is one inode. No client ever lists ``.lazy`` or what is below it: overlay gets the names from
the layer's metadata and looks them up one by one. So there they can be looked up only, and a listing is empty.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from als.errors import BadImage
from als.fuse.backend import ServedLayer
from als.model.digest import Digest
from als.model.forest import FOREST, forest_path

ROOT_INODE = 1
USE = "use"
LAZY = ".lazy"
"""No reference is called so: base64 has no dot."""
_SHA256 = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Node:
    """One file of the tree."""

    @property
    def path(self) -> str:
        """The path from the mount point, without a leading slash; "" for the root."""
        raise AssertionError("a node has a kind")

    @property
    def identity(self) -> str:
        """What makes it the same file: nodes are the same if and only if this is equal."""
        return self.path

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
        raw = hashlib.sha256(self.identity.encode()).digest()
        return int.from_bytes(raw[:8], "big") & ((1 << 62) - 1) | (1 << 62)

    def merged(self, known: Node) -> Node:
        """What to keep of this node where the kernel knows one of the same identity already: the newest description wins."""
        return self


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


@dataclass(frozen=True, slots=True)
class LazyRoot(_Directory):
    """The directory of all lazy layers."""

    @property
    def path(self) -> str:
        return LAZY


@dataclass(frozen=True, slots=True)
class LazyLayerDir(_Directory):
    """What overlay has as a lower directory."""

    key: str

    @property
    def path(self) -> str:
        return f"{LAZY}/{self.key}"


@dataclass(frozen=True, slots=True)
class LazyForestDir(_Directory):
    """The only directory of a lazy layer."""

    key: str

    @property
    def path(self) -> str:
        return f"{LAZY}/{self.key}/{FOREST}"


@dataclass(frozen=True, slots=True)
class LazyFile(Node):
    """The content of a file of lazy layers."""

    places: tuple[tuple[str, bytes], ...]
    """Keys of layers that have it, and its names in their forests; the newest first. Each of them may go before the others."""
    commitment: bytes
    """What commits to its bytes."""
    length: int

    @property
    def path(self) -> str:
        key, name = self.places[0]
        return f"{LAZY}/{key}/{forest_path(name)}"

    @property
    def identity(self) -> str:
        # The kernel has one size for an inode, so it is a part of this whatever the commitment is made of. No path has a space.
        return f"content {self.commitment.hex()} {self.length}"

    @property
    def size(self) -> int:
        return self.length

    def merged(self, known: Node) -> Node:
        if not isinstance(known, LazyFile):
            return self
        return replace(self, places=self.places + tuple(place for place in known.places if place not in self.places))


LazyDir = LazyRoot | LazyLayerDir | LazyForestDir
"""The directories of lazy layers."""

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


def parse_key(name: bytes) -> str | None:
    """The key of a lazy layer that a directory name is; None where it is none."""
    return name.decode() if _SHA256.fullmatch(name) else None


def parse_forest_name(name: bytes) -> bytes | None:
    """The name in the forest that the name of a lazy layer's file stands for; None where it stands for none."""
    return bytes.fromhex(name.decode()) if _SHA256.fullmatch(name) else None


class Observer(Protocol):
    """Somebody who is told of each change of a node table before the kernel is."""

    def told(self, node: Node, *, again: bool) -> None:
        """One more lookup of a node.

        :param again: the kernel has been told exactly this before.
        """
        ...

    def forgotten(self, inode: int, lookups: int) -> None:
        """The kernel dropped that many lookups."""
        ...


class NodeTable:
    """The nodes that the kernel knows of, with its lookup counts (libfuse, ``fuse_lowlevel.h``, on ``forget``).

    It grows with what the kernel caches and shrinks as that forgets; nothing else keeps a node.
    """

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {ROOT_INODE: Root()}
        self._lookups: dict[int, int] = {}
        self._observer: Observer | None = None

    def __len__(self) -> int:
        return len(self._nodes)

    def observe(self, observer: Observer | None) -> None:
        """Tell somebody of each change from now on; None: nobody any more."""
        self._observer = observer

    def known(self) -> Iterator[tuple[Node, int]]:
        """All nodes but the root, with their lookups."""
        return ((self._nodes[inode], lookups) for inode, lookups in self._lookups.items())

    def remember(self, node: Node, lookups: int = 1) -> bool:
        """Count lookups of a node that is about to be told to the kernel.

        :return: whether it may be told. Not so if another file has the same number, which nothing but malice brings about.
        """
        inode = node.inode
        if inode == ROOT_INODE:
            return True
        known = self._nodes.get(inode)
        if known is not None and known.identity != node.identity:
            return False
        merged = node if known is None else node.merged(known)
        self._nodes[inode] = merged
        self._lookups[inode] = self._lookups.get(inode, 0) + lookups
        if self._observer is not None:
            self._observer.told(merged, again=merged == known)
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
        if self._observer is not None and inode != ROOT_INODE:
            self._observer.forgotten(inode, lookups)
