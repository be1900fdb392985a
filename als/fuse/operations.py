"""The requests of the kernel, answered from the tree of :mod:`als.fuse.nodes`.

Thin on purpose: names become nodes here, and waiting is left to :mod:`als.fuse.lookups`, :mod:`als.fuse.contents` and
:mod:`als.fuse.lazyfiles`.

What containers/storage does to a layer's directory (``drivers/overlay/overlay.go``): ``os.Create("use")`` takes a reference and
``rmdir`` of the directory drops one, and of both it expects ENOENT. The mount is therefore not read-only: on a read-only
one the kernel itself would answer EROFS and neither gesture would reach us.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Sequence
from typing import NoReturn

import pyfuse3
import trio

from als.errors import AlsError, NotFound
from als.fuse import errors, nodes
from als.fuse.backend import Backend
from als.fuse.calls import Calls, Deadlines
from als.fuse.contents import Contents
from als.fuse.lazyfiles import LazyTree
from als.fuse.lookups import Lookups

_LOG = logging.getLogger(__name__)

_FIXED_SECONDS = 60.0
_LAYER_SECONDS = 0.0
"""How long the kernel may answer from its own cache: long for directories, short for layers, which can be removed."""
_FOREVER_SECONDS = 1e9
"""The same of lazy layers: what a key or a file's name stands for never changes. That it stands for nothing is not cached."""


class LayerOperations(pyfuse3.Operations):
    """The handlers that pyfuse3 calls, each in a task of its own.

    `lookups` has a task of its own that somebody has to run as long as requests are handled.
    """

    supports_dot_lookup = False

    def __init__(
        self,
        backend: Backend,
        calls: Calls,
        deadlines: Deadlines,
        table: nodes.NodeTable,
        *,
        lookup_threads: int,
        io_threads: int,
    ) -> None:
        """
        :param table: the nodes that the kernel knows already.
        :param lookup_threads: how many layers are looked up at once.
        :param io_threads: how many other calls of the backend there are at once, of each kind.
        """
        super().__init__()
        self._backend = backend
        self._calls = calls
        self._deadlines = deadlines
        self._counting = trio.CapacityLimiter(io_threads)
        self.lookups = Lookups(backend, calls, seconds=deadlines.lookup, threads=lookup_threads)
        self._contents = Contents(backend, calls, deadlines, threads=io_threads)
        self._lazy = LazyTree(backend.lazy, calls, seconds=deadlines.lazy_read) if backend.lazy is not None else None
        self._nodes = table
        self.when_initialized: Callable[[], None] = lambda: None
        """Called once, before the first request: libfuse is told what was negotiated, and has not answered yet."""

    def init(self) -> None:
        self.when_initialized()

    # Names

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        parent = self._node(parent_inode)
        try:
            with self._calls.request(f"{parent.path}/{os.fsdecode(name)}"):
                node = await self._child(parent, name, ctx.pid)
        except NotFound:
            node = None
        except (AlsError, OSError) as error:
            _LOG.warning("lookup below /%s failed: %s", parent.path, error)
            node = None
        if node is None or not self._nodes.remember(node):
            raise errors.no_such_name()
        return _attributes(node)

    async def _child(self, parent: nodes.Node, name: bytes, thread: int) -> nodes.Node | None:
        match parent:
            case nodes.Root() if name == nodes.LAZY.encode():
                return nodes.LazyRoot() if self._lazy is not None else None
            case nodes.LazyRoot() | nodes.LazyLayerDir() | nodes.LazyForestDir():
                return self._lazy.child(parent, name) if self._lazy is not None else None
            case nodes.Root():
                reference = nodes.parse_reference(name)
                return nodes.ReferenceDir(reference) if reference is not None else None
            case nodes.ReferenceDir(reference):
                digest = nodes.parse_digest(name)
                return nodes.LayerDir(reference, digest) if digest is not None else None
            case nodes.LayerDir(reference, digest):
                if name not in nodes.LAYER_FILES:
                    return None
                layer = await self.lookups.find(reference, digest, thread)
                files = nodes.layer_files(parent, layer) if layer is not None else ()
                return next((node for node in files if node.name.encode() == name), None)
            case _:
                raise errors.wrong_kind(directory_wanted=True)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, lookups in inode_list:
            self._nodes.forget(inode, lookups)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return _attributes(self._node(inode))

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        node = self._node(inode)
        if not isinstance(node, nodes.Diff):
            raise errors.wrong_kind(directory_wanted=False)
        return node.target

    # Directories: the handle is the inode number, and an entry's cookie is its own inode number, in whose order entries come.
    # So nothing is kept between two calls, and entries that come and go meanwhile disturb no other.

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        self._node(inode)
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for node in self._entries(self._node(fh), start_id):
            if not self._nodes.remember(node):
                continue
            if not pyfuse3.readdir_reply(token, node.name.encode(), _attributes(node), node.inode):
                self._nodes.forget(node.inode, 1)
                return

    def _entries(self, directory: nodes.Node, after: int) -> list[nodes.Node]:
        """The directory's entries whose inode numbers are greater than `after`, in ascending order."""
        children: list[nodes.Node] = []
        match directory:
            case nodes.Root():
                children += [nodes.ReferenceDir(reference) for reference in self.lookups.known_references()]
            case nodes.ReferenceDir(reference):
                children += [nodes.LayerDir(reference, digest) for digest in self.lookups.known_digests(reference)]
            case nodes.LayerDir(reference, digest):
                layer = self.lookups.known(reference, digest)
                children += nodes.layer_files(directory, layer) if layer is not None else ()
        return sorted((node for node in children if node.inode > after), key=lambda node: node.inode)

    # Contents

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        node = self._node(inode)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise errors.read_only()
        if isinstance(node, nodes.Blob):
            try:
                with self._calls.request(node.path):
                    await self._contents.open(node)
            except (AlsError, OSError) as error:
                _LOG.warning("opening %s failed: %s", _in_words(node), error)
                raise errors.content_error(error) from error
        # What a digest names never changes, so its pages stay good; an info document may.
        return pyfuse3.FileInfo(fh=inode, keep_cache=isinstance(node, nodes.Blob | nodes.LazyFile))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        match self._node(fh):
            case nodes.Info() as node:
                return node.layer.info[off : off + size]
            case nodes.Blob() as node:
                try:
                    with self._calls.request(node.path):
                        return await self._contents.read(node, off, size)
                except (AlsError, OSError) as error:
                    _LOG.warning("reading %d bytes at %d of %s failed: %s", size, off, _in_words(node), error)
                    raise errors.content_error(error) from error
            case nodes.LazyFile() as node if self._lazy is not None:
                return await self._lazy.read(node, off, size)
            case _:
                raise errors.wrong_kind(directory_wanted=False)

    async def release(self, fh: int) -> None:
        try:
            await self._contents.release(fh)
        except (AlsError, OSError) as error:
            _LOG.warning("closing inode %d failed: %s", fh, error)

    # The two gestures

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        await self._use(parent_inode, name)

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self._use(parent_inode, name)

    async def _use(self, parent_inode: int, name: bytes) -> NoReturn:
        parent = self._node(parent_inode)
        if not isinstance(parent, nodes.LayerDir) or name != nodes.USE.encode():
            raise errors.read_only()
        await self._count("taking", self._backend.use, parent.reference, parent.digest)
        raise errors.no_such_name()

    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        parent = self._node(parent_inode)
        digest = nodes.parse_digest(name)
        if not isinstance(parent, nodes.ReferenceDir) or digest is None:
            raise errors.read_only()
        await self._count("dropping", self._backend.release, parent.reference, digest)
        raise errors.no_such_name()

    async def _count(self, verb: str, count: Callable[[str, str], None], reference: str, digest: str) -> None:
        where = f"{reference} {digest}"
        try:
            with self._calls.request(where):
                await self._calls.run(
                    lambda: count(reference, digest),
                    limiter=self._counting,
                    seconds=self._deadlines.count,
                    where=where,
                    must_finish=True,
                )
        except (AlsError, OSError) as error:
            # The protocol has no answer for this: the client takes ENOENT for success, and anything else for a store
            # that does not count.
            _LOG.error("%s a reference to %s failed: %s", verb, where, error)

    # The file system as a whole, and what it refuses

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_files = len(self._nodes)
        data.f_namemax = 1024  # FUSE_NAME_MAX: base64 makes long references longer than 255.
        return data

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        raise errors.no_such_attribute()

    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        return []

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        raise errors.read_only()

    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        raise errors.read_only()

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        raise errors.read_only()

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        raise errors.read_only()

    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        raise errors.read_only()

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise errors.read_only()

    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise errors.read_only()

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        raise errors.read_only()

    def _node(self, inode: int) -> nodes.Node:
        node = self._nodes.get(inode)
        if node is None:
            raise errors.stale()
        return node


def _in_words(node: nodes.Blob) -> str:
    return f"the blob of {node.parent.reference} {node.parent.digest}"


def _attributes(node: nodes.Node) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = node.inode
    entry.st_mode = node.mode
    entry.st_nlink = 1
    entry.st_size = node.size
    entry.st_blksize = 4096
    entry.st_blocks = -(-node.size // 512)
    entry.entry_timeout = entry.attr_timeout = _seconds_cached(node)
    # Users, groups and times keep pyfuse3's zeros: root and the epoch.
    return entry


def _seconds_cached(node: nodes.Node) -> float:
    if isinstance(node, nodes.LazyDir | nodes.LazyFile):
        return _FOREVER_SECONDS
    return _FIXED_SECONDS if stat.S_ISDIR(node.mode) else _LAYER_SECONDS
