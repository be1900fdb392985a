"""Registries, asked for the mirror's clients through fetch workers.

One worker serves all requests to a repository that are made with the same rights, and is kept for some seconds, since a pull is
a handful of requests. It gets new settings and credentials when it is a minute old. Answers are read as they come, without a
thread that waits for them.
"""

from __future__ import annotations

import math
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from als.errors import DeadlineExceeded, DigestMismatch, LimitExceeded, RegistryUnavailable, WorkerError
from als.mirror.routes import Span
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS
from als.model.manifest import Descriptor
from als.model.reference import Reference
from als.registry.settings import Settings
from als.registry.source import RawManifest
from als.worker.frames import DATA, END, ERROR, HEADER, MAX_BODY, read_json, unpack_error

PIECE = 1 << 16
_FRAME = struct.Struct("<BI")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_HEADER_MAX = 1 << 16
_REQUESTS = 48
"""At once per worker; each takes two of the descriptors it may have."""
SETTINGS = Settings(connect_timeout=5.0, deadline=30.0, attempts=3, connections=_REQUESTS)
"""Less patient than a pull of our own: a client that gets no manifest here asks the registry itself."""
_WORKERS = 32
_IDLE_SECONDS = 20.0
_AGE_SECONDS = 60.0
_LOOK_SECONDS = 5.0


class Source(Protocol):
    """What is needed of :class:`als.fetch.source.RegistryImages`."""

    def begin(self, request: dict[str, object]) -> socket.socket: ...

    def manifest(self, name: str) -> RawManifest: ...

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]: ...

    def read_at(self, descriptor: Descriptor, offset: int, length: int) -> bytes: ...

    def close(self) -> None: ...


class Answer:
    """A worker's answer to one request, read in pieces.

    :param stall: seconds without a byte after which it is given up.
    """

    def __init__(self, answers: trio.socket.SocketType, stall: float, where: str) -> None:
        self._socket = answers
        self._stall = stall
        self._where = where
        self._buffer = b""
        self._left = 0
        """Of the DATA frame that was begun."""

    async def header(self) -> dict[str, object]:
        """What the worker says before the first byte.

        :raises AlsError: the worker's own error, or it broke the protocol.
        """
        kind, length = await self._frame()
        if kind != HEADER or length > _HEADER_MAX:
            raise WorkerError("a worker broke the protocol", where=self._where)
        return read_json(await self._exactly(length))

    async def piece(self) -> bytes:
        """The next bytes of the body, at most `PIECE`; empty at its end.

        :raises AlsError: as `header`.
        """
        while not self._left:
            kind, length = await self._frame()
            if kind == END:
                return b""
            if kind != DATA or not length:
                raise WorkerError("a worker broke the protocol", where=self._where)
            self._left = length
        if not self._buffer:
            await self._receive()
        data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(data)
        return data

    async def _frame(self) -> tuple[int, int]:
        kind, length = _FRAME.unpack(await self._exactly(_FRAME.size))
        if length > MAX_BODY:
            raise WorkerError(f"a worker sent a frame of {length} bytes", where=self._where)
        if kind == ERROR:
            raise unpack_error(await self._exactly(min(length, _HEADER_MAX)))
        return kind, length

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._receive()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def _receive(self) -> None:
        with trio.move_on_after(self._stall):
            try:
                data = await self._socket.recv(PIECE)
            except ConnectionResetError:
                data = b""
            if not data:
                raise WorkerError("a worker ended without an answer", where=self._where)
            self._buffer += data
            return
        raise DeadlineExceeded(f"no byte came for {self._stall:.0f} seconds", where=self._where)


class _Shared:
    """A worker and those who use it."""

    def __init__(self) -> None:
        self.opening = trio.Lock()
        self.source: Source | None = None
        self.requests = trio.CapacityLimiter(_REQUESTS)
        self.users = 0
        self.opened = self.used = math.nan

    def is_stale(self, now: float) -> bool:
        return self.users == 0 and not now - self.used < _IDLE_SECONDS

    def close(self) -> None:
        source, self.source = self.source, None
        if source is not None:
            source.close()


class Upstreams:
    """The workers that are kept.

    :param open_source: makes a worker for the repository of a reference, with root's credentials or none; blocks.
    :param stall: seconds without a byte after which a request is given up.
    """

    def __init__(self, open_source: Callable[[Reference, bool], Source], stall: float) -> None:
        self._open_source = open_source
        self._stall = stall
        self._shared: dict[tuple[str, bool], _Shared] = {}
        self._retired: list[_Shared] = []

    async def run(self) -> None:
        """Let go of workers that nobody uses any more, until cancelled; then of all."""
        try:
            while True:
                await trio.sleep(_LOOK_SECONDS)
                self._tidy()
        finally:
            for shared in (*self._shared.values(), *self._retired):
                shared.close()
            self._shared.clear()

    async def manifest(self, reference: Reference, anonymous: bool) -> RawManifest:
        """What a reference names there now.

        :raises AlsError: it cannot be had.
        """
        async with self._asked(reference, anonymous, {"op": "manifest", "name": reference.tag_or_digest}) as answer:
            stated = str((await answer.header()).get("media_type", ""))
            # It goes into a header of ours; a client that gets none looks at the document, as we do.
            media_type = stated if _MEDIA_TYPE.fullmatch(stated) else ""
            data = bytearray()
            while piece := await answer.piece():
                data += piece
                if len(data) > DEFAULT_LIMITS.manifest_bytes:
                    raise LimitExceeded(f"a manifest of more than {DEFAULT_LIMITS.manifest_bytes} bytes", where=str(reference))
        digest = reference.digest or Digest.of(bytes(data))
        hasher = digest.hasher()
        hasher.update(data)
        if hasher.hexdigest() != digest.hex:
            raise DigestMismatch("the manifest has another digest", where=str(reference))
        return RawManifest(media_type, bytes(data), digest)

    @asynccontextmanager
    async def blob(self, reference: Reference, span: Span, anonymous: bool) -> AsyncIterator[tuple[int | None, Answer]]:
        """A blob of the repository (`reference` has its digest) or a part of it: the size of the whole, if known, and the
        bytes, unverified.

        :raises AlsError: it cannot be had.
        """
        request: dict[str, object] = {
            "op": "blob",
            "digest": str(reference.digest),
            "offset": span.start,
            "length": span.length,
        }
        async with self._asked(reference, anonymous, request) as answer:
            size = (await answer.header()).get("size")
            yield size if isinstance(size, int) and size >= 0 else None, answer

    @asynccontextmanager
    async def lent(self, reference: Reference, anonymous: bool) -> AsyncIterator[Source | None]:
        """What a repository was asked through just now, with its open connections; None where there is nothing such."""
        shared = self._shared.get((reference.name, anonymous))
        if shared is None or shared.source is None:
            yield None
            return
        shared.users += 1
        try:
            yield shared.source
        finally:
            shared.users -= 1
            shared.used = time.monotonic()

    @asynccontextmanager
    async def _asked(self, reference: Reference, anonymous: bool, request: dict[str, object]) -> AsyncIterator[Answer]:
        key = (reference.name, anonymous)
        shared = self._of(key)
        shared.users += 1
        try:
            async with shared.opening:
                if shared.source is None:
                    opened = trio.to_thread.run_sync(self._open_source, reference, anonymous)
                    shared.source = await opened
                    shared.opened = time.monotonic()
                source = shared.source
            async with shared.requests:
                try:
                    answers = source.begin(request)
                    answers.setblocking(False)
                    with trio.socket.from_stdlib_socket(answers) as ours:
                        yield Answer(ours, self._stall, f"{reference}")
                except WorkerError:
                    # It has ended, or lies: the next request gets another one.
                    self._retire(key, shared)
                    raise
        finally:
            shared.users -= 1
            shared.used = time.monotonic()

    def _of(self, key: tuple[str, bool]) -> _Shared:
        shared = self._shared.get(key)
        if shared is not None and time.monotonic() - shared.opened > _AGE_SECONDS:
            self._retire(key, shared)
            shared = None
        if shared is None:
            self._tidy()
            if len(self._shared) + len(self._retired) >= _WORKERS:
                raise RegistryUnavailable("too many repositories are being asked at once", where=key[0])
            shared = self._shared[key] = _Shared()
        return shared

    def _retire(self, key: tuple[str, bool], shared: _Shared) -> None:
        if self._shared.get(key) is shared:
            del self._shared[key]
            self._retired.append(shared)

    def _tidy(self) -> None:
        now = time.monotonic()
        for key, shared in list(self._shared.items()):
            if shared.is_stale(now):
                self._retire(key, shared)
        for shared in self._retired:
            if not shared.users:
                shared.close()
        self._retired = [shared for shared in self._retired if shared.users]
