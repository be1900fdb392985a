"""Open blobs.

A handle is the inode number, and all who have a file open share one `ByteFile`: they share its page cache anyway, and a
read with a handle that this daemon did not give out can still be served (see :mod:`als.fuse.nodes` on restarts). Rejected: a
`ByteFile` per open, which could be a download per open.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import trio

from als.errors import DeadlineExceeded, StoreDamaged
from als.fuse.backend import Backend, ByteFile
from als.fuse.calls import Calls, Deadlines
from als.fuse.nodes import Blob

T = TypeVar("T")


class _Shared:
    """A file with everybody who has it open."""

    def __init__(self, opens: int = 0) -> None:
        self.opens = opens
        self.file: ByteFile | None = None
        # Reads of one file run one after the other, in the order in which the kernel asked: a ByteFile need not stand
        # two threads, and one that is a stream underneath wants them in ascending order.
        self.lock = trio.Lock()


class Contents:
    """All open blobs, by inode number."""

    def __init__(self, backend: Backend, calls: Calls, deadlines: Deadlines, *, threads: int) -> None:
        self._backend = backend
        self._calls = calls
        self._deadlines = deadlines
        self._limiter = trio.CapacityLimiter(threads)
        self._shared: dict[int, _Shared] = {}

    def __len__(self) -> int:
        return len(self._shared)

    async def open(self, node: Blob) -> None:
        """Open the file, or one more time.

        :raises AlsError: its content cannot be had, or has another size than the kernel was told.
        """
        shared = self._shared.setdefault(node.inode, _Shared())
        shared.opens += 1
        opened = False
        try:
            async with shared.lock:
                await self._opened(node, shared)
            opened = True
        finally:
            if not opened:
                self._drop(node.inode, shared)

    async def read(self, node: Blob, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer than asked for only at its end.

        :raises AlsError: they cannot be had.
        """
        wanted = max(0, min(length, node.size - offset))
        if not wanted:
            return b""
        shared = self._shared.setdefault(node.inode, _Shared(opens=1))
        async with shared.lock:
            data = await self._read(node, shared, offset, wanted)
        if len(data) != wanted:
            # The kernel would fill a short answer up with zeros.
            raise StoreDamaged(f"{len(data)} bytes instead of {wanted} at {offset}", where=node.path)
        return data

    async def release(self, inode: int) -> None:
        """One opener closed it; the last one closes the file."""
        shared = self._shared.get(inode)
        file = self._drop(inode, shared) if shared is not None else None
        if file is not None:
            await self._close(file)

    async def _opened(self, node: Blob, shared: _Shared) -> ByteFile:
        """The open file. To be called with its lock held."""
        if shared.file is None:
            shared.file = await self._open(node)
        return shared.file

    async def _open(self, node: Blob) -> ByteFile:
        def work() -> ByteFile:
            return self._backend.open_blob(node.parent.reference, node.parent.digest)

        file = await self._run(work, self._deadlines.open, node.path, discard=lambda late: late.close())
        if file.size != node.size:
            await self._close(file)
            raise StoreDamaged(f"it has {file.size} bytes instead of {node.size}", where=node.path)
        return file

    async def _read(self, node: Blob, shared: _Shared, offset: int, length: int) -> bytes:
        """Read from the file. To be called with its lock held."""
        file = await self._opened(node, shared)
        begun = threading.Event()

        def work() -> bytes:
            begun.set()
            return file.read_at(offset, length)

        try:
            return await self._run(work, self._deadlines.read, node.path, discard=lambda _: file.close())
        except DeadlineExceeded:
            if begun.is_set():
                # A thread may still be busy in it: it is closed when that ends, and the next read opens another.
                shared.file = None
            raise

    async def _close(self, file: ByteFile) -> None:
        await self._calls.run(file.close, limiter=self._limiter, seconds=self._deadlines.count, where="close", must_finish=True)

    async def _run(self, work: Callable[[], T], seconds: float, where: str, discard: Callable[[T], None] | None = None) -> T:
        return await self._calls.run(work, limiter=self._limiter, seconds=seconds, where=where, discard=discard)

    def _drop(self, inode: int, shared: _Shared) -> ByteFile | None:
        """Count one opener less; the file, if that was the last."""
        shared.opens -= 1
        if shared.opens:
            return None
        del self._shared[inode]
        return shared.file
