"""Names and reads of the files of lazy layers.

When a read fails, the kernel asks for the one page that somebody waits for once more, and for a page fault twice (its
``mm/filemap.c``: first reading ahead, then ``filemap_read_folio``), before it passes the error on. Whoever waited until a
deadline would so wait for two or three. Therefore what failed after a while fails for another moment at once, if it is asked
for in that way.
"""

from __future__ import annotations

import logging
import mmap
from collections import deque
from dataclasses import dataclass

import trio

from als.errors import AlsError, NotFound, StoreDamaged
from als.fuse import errors, nodes
from als.fuse.backend import LazyFiles
from als.fuse.calls import Calls, Kind
from als.model.forest import FOREST

_LOG = logging.getLogger(__name__)

_LONG_SECONDS = 1.0
"""Who failed sooner may ask anew at once."""
_REPEAT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Failure:
    inode: int
    start: int
    end: int
    until: float
    """On trio's clock."""


class LazyTree:
    """What is below ``.lazy``."""

    def __init__(self, files: LazyFiles, calls: Calls, *, seconds: float) -> None:
        """
        :param seconds: the deadline of one read.
        """
        self._files = files
        self._calls = calls
        self._seconds = seconds
        self._failures: deque[_Failure] = deque()

    def child(self, parent: nodes.LazyDir, name: bytes) -> nodes.Node | None:
        """The node of this name; None where there is none.

        :raises NotFound: so it is.
        """
        match parent:
            case nodes.LazyRoot():
                key = nodes.parse_key(name)
                return nodes.LazyLayerDir(key) if key is not None and self._files.has_layer(key) else None
            case nodes.LazyLayerDir(key):
                return nodes.LazyForestDir(key) if name == FOREST.encode() else None
            case nodes.LazyForestDir(key):
                content = nodes.parse_forest_name(name)
                if content is None:
                    return None
                return nodes.LazyFile(((key, content),), self._files.identity(key, content), self._files.size(key, content))

    async def read(self, node: nodes.LazyFile, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer than asked for only at its end.

        :raises pyfuse3.FUSEError: they cannot be had; the log says why.
        """
        end = min(offset + length, node.size)
        if offset >= end:
            return b""
        begun = trio.current_time()
        if length <= mmap.PAGESIZE and self._failed_just_now(node, offset):
            raise errors.unreadable()
        try:
            return await self._read(node, offset, end - offset)
        except (AlsError, OSError) as error:
            _LOG.warning("reading bytes %d to %d of %s failed: %s", offset, end - 1, node.path, error)
            now = trio.current_time()
            if now - begun >= _LONG_SECONDS:
                self._failures.append(_Failure(node.inode, offset, end, now + _REPEAT_SECONDS))
            raise errors.unreadable() from error

    async def _read(self, node: nodes.LazyFile, offset: int, length: int) -> bytes:
        """
        :raises AlsError: the bytes cannot be had.
        """
        with self._calls.request(node.path, Kind.LAZY_READ):
            key, name = self._place(node)
            future = self._files.read(key, name, offset, length)
            data = await self._calls.wait(future, seconds=self._seconds, where=node.path)
        if len(data) != length:
            # The kernel would fill a short answer up with zeros.
            raise StoreDamaged(f"{len(data)} bytes instead of {length} at {offset}", where=node.path)
        return data

    def _failed_just_now(self, node: nodes.LazyFile, offset: int) -> bool:
        now = trio.current_time()
        while self._failures and self._failures[0].until < now:
            self._failures.popleft()
        return any(each.inode == node.inode and each.start <= offset < each.end for each in self._failures)

    def _place(self, node: nodes.LazyFile) -> tuple[str, bytes]:
        """A layer that has it, and its name there. All of them have the same bytes."""
        for key, name in node.places:
            if self._files.has_layer(key):
                return key, name
        raise NotFound("no layer that has it is served any more", where=node.path)
