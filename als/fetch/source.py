"""Where an image's manifests and blobs come from, seen from the privileged side.

A :class:`ImageSource` answers with bytes that are not yet believed: who reads a blob checks its digest at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol

from als.errors import Abandoned, DeadlineExceeded, DigestMismatch, LimitExceeded, WorkerError
from als.model.counting import Counters, NotCounted
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS
from als.model.manifest import Descriptor
from als.registry.source import LocalSource, RawManifest, check_digest
from als.worker.client import Worker, Workers
from als.worker.frames import DATA, END, HEADER, FrameReader, read_json

PIECE = 1 << 18


class ImageSource(Protocol):
    """One image's (or repository's) manifests and blobs."""

    def manifest(self, name: str) -> RawManifest:
        """A manifest or index by tag or digest; by digest it is verified.

        :raises AlsError: it cannot be had.
        """
        ...

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob's bytes in pieces, unverified.

        :raises AlsError: it cannot be had, or no byte came for too long.
        """
        ...

    def read_at(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        """`length` bytes of a blob from `offset` on, unverified; fewer where it ends before.

        :raises AlsError: they cannot be had, or no byte came for too long.
        """
        ...

    def close(self) -> None: ...


class RangeStream:
    """The answer to a request for a range; to be closed. Nothing of it is verified.

    :param answers: HEADER and DATA frames of a fetch worker.
    :raises AlsError: there is no such range.
    """

    def __init__(self, answers: Generator[tuple[int, memoryview], None, None]) -> None:
        self._answers = answers
        kind, body = next(answers, (END, memoryview(b"")))
        head = read_json(body) if kind == HEADER else {}
        start, size = head.get("start"), head.get("size")
        if type(start) is not int or not (size is None or type(size) is int):
            self.close()
            raise WorkerError("a worker broke the protocol")
        self.start = start
        """Where in the blob the first piece begins."""
        self.whole = head.get("whole") is True
        """The server gives the whole blob in place of the range."""
        self.size = size
        """Of the whole blob, where the server tells."""
        self.place = "".join(char for char in str(head.get("place", ""))[:300] if char.isprintable())
        """Who answered."""

    def pieces(self) -> Iterator[bytes]:
        """The bytes; there may be more or fewer than were asked for.

        :raises AlsError: they break off.
        """
        for kind, body in self._answers:
            if kind == DATA:
                yield bytes(body)

    def close(self) -> None:
        self._answers.close()


class RangeSource(Protocol):
    """Ranges of the blobs of one repository."""

    def range(self, digest: Digest, offset: int, length: int, check: Callable[[], None]) -> RangeStream:
        """`length` bytes of a blob from `offset` on.

        :param check: called ten times a second while no byte comes; raises when the wait has been long enough.
        :raises AlsError: they cannot be had.
        """
        ...

    def close(self) -> None: ...


class RepositorySource(ImageSource, RangeSource, Protocol):
    """A repository of a registry."""


class LocalImages:
    """An OCI layout or archive on this machine."""

    def __init__(self, source: LocalSource) -> None:
        self._source = source

    def manifest(self, name: str) -> RawManifest:
        return self._source.manifest(name)

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        place = self._source.local_blob(descriptor.digest)
        fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            offset, end = place.offset, place.offset + place.size
            while offset < end and (data := os.pread(fd, min(PIECE, end - offset), offset)):
                offset += len(data)
                yield data
        finally:
            os.close(fd)

    def read_at(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        with self._source.blob(descriptor.digest, offset=offset, length=length) as stream:
            return b"".join(iter(lambda: stream.read(PIECE), b""))

    def close(self) -> None:
        """Nothing is held open."""


class RegistryImages:
    """A repository of a registry, through a fetch worker, which is started with the first request if not before.

    :param stall: seconds without a byte after which a request is given up.
    :param given_up: asked while no byte comes; True: nobody waits for any.
    :param counters: told of all bytes of manifests and blobs that come.
    """

    def __init__(
        self,
        workers: Workers,
        params: dict[str, object],
        where: str,
        *,
        stall: float,
        given_up: Callable[[], bool] = lambda: False,
        counters: Counters | None = None,
    ) -> None:
        self._where = where
        self._counters = counters or NotCounted()
        self._given_up = given_up
        self._stall = stall
        self._workers = workers
        self._params = params
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._closed = False
        self._requests, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def manifest(self, name: str) -> RawManifest:
        media_type = ""
        data = bytearray()
        for kind, body in self._ask({"op": "manifest", "name": name}):
            if kind == HEADER:
                media_type = str(read_json(body).get("media_type", ""))
            elif kind == DATA:
                data += body
                if len(data) > DEFAULT_LIMITS.manifest_bytes:
                    raise LimitExceeded(f"a manifest of more than {DEFAULT_LIMITS.manifest_bytes} bytes", where=self._where)
        raw = RawManifest(media_type, bytes(data), Digest.of(bytes(data)))
        if ":" in name and Digest.parse(name) != raw.digest:
            raise DigestMismatch(f"the manifest is {raw.digest}", where=f"{self._where}@{name}")
        return raw

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        for kind, body in self._ask({"op": "blob", "digest": str(descriptor.digest), "offset": 0, "length": None}):
            if kind == DATA:
                yield bytes(body)

    def range(self, digest: Digest, offset: int, length: int, check: Callable[[], None]) -> RangeStream:
        request = {"op": "blob", "digest": str(digest), "offset": offset, "length": length, "prompt": True}
        return RangeStream(self._ask(request, check))

    def read_at(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        """From a server that knows no ranges the whole blob is taken, and what comes before is dropped as it comes."""
        data = bytearray()
        with contextlib.closing(self.range(descriptor.digest, offset, length, lambda: None)) as stream:
            skip = offset - stream.start
            if skip < 0:
                raise WorkerError("a worker sent other bytes than were asked for", where=self._where)
            for piece in stream.pieces():
                data += piece[skip : skip + length - len(data)]
                skip -= min(skip, len(piece))
                if len(data) == length:
                    break
        return bytes(data)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._requests.close()
            self._theirs.close()
            if self._worker is not None:
                self._worker.kill()

    def start(self) -> None:
        """Have the worker. With one, `begin` does not block.

        :raises WorkerError: it cannot be started.
        """
        with self._lock:
            if self._worker is None and not self._closed:
                self._worker = self._workers.fetch(self._params, self._theirs.fileno())
                self._theirs.close()

    def begin(self, request: dict[str, object]) -> socket.socket:
        """Make a request to the worker; the socket on which it answers in frames is the caller's.

        :raises WorkerError: the worker has ended, or cannot be started.
        """
        self.start()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._requests, [json.dumps(request).encode()], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise WorkerError(f"the fetch worker has ended: {error}", where=self._where) from error
        return ours

    def _ask(
        self, request: dict[str, object], check: Callable[[], None] | None = None
    ) -> Generator[tuple[int, memoryview], None, None]:
        with self.begin(request) as ours:
            last = time.monotonic()

            def idle() -> None:
                if check is not None:
                    check()
                if self._given_up():
                    raise Abandoned("nobody waits for it any more", where=self._where)
                if time.monotonic() - last > self._stall:
                    raise DeadlineExceeded(
                        f"no byte came for {self._stall:.0f} seconds",
                        where=f"{self._where} {request.get('digest', '')}".strip(),
                    )

            begun = False
            for kind, body in FrameReader(ours.fileno(), idle, tick=0.1).frames():
                last = time.monotonic()
                if kind == END:
                    return
                # What a worker could send for ever without anything coming of it.
                if kind not in (HEADER, DATA) or not body or (begun and kind == HEADER):
                    raise WorkerError("a worker broke the protocol", where=self._where)
                begun = True
                if kind == DATA:
                    self._counters.received(len(body))
                yield kind, body


def read_blob(source: ImageSource, descriptor: Descriptor, limit: int) -> bytes:
    """A small blob (a config) whole, verified.

    :raises LimitExceeded: it has more than `limit` bytes.
    :raises DigestMismatch: it is not what its digest and size promise.
    """
    data = bytearray()
    for piece in _bounded(source, descriptor):
        data += piece
        if len(data) > limit:
            raise LimitExceeded(f"more than {limit} bytes", where=str(descriptor.digest))
    return check_digest(bytes(data), descriptor.digest, str(descriptor.digest))


def copy_blob(source: ImageSource, descriptor: Descriptor, path: Path) -> None:
    """Write a blob to a new file, verified.

    :raises DigestMismatch: it is not what its digest and size promise; the file is removed again.
    """
    hasher = descriptor.digest.hasher()
    try:
        with path.open("xb") as file:
            for piece in _bounded(source, descriptor):
                hasher.update(piece)
                file.write(piece)
        if hasher.hexdigest() != descriptor.digest.hex:
            raise DigestMismatch("the bytes that came have another digest", where=str(descriptor.digest))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _bounded(source: ImageSource, descriptor: Descriptor) -> Iterator[bytes]:
    """A blob's bytes, exactly as many as its descriptor states.

    :raises DigestMismatch: there are more or fewer.
    """
    size = 0
    for piece in source.blob(descriptor):
        size += len(piece)
        if size > descriptor.size:
            raise DigestMismatch(f"more than the {descriptor.size} bytes promised came", where=str(descriptor.digest))
        yield piece
    if size != descriptor.size:
        raise DigestMismatch(f"{size} bytes came, {descriptor.size} were promised", where=str(descriptor.digest))
