"""Where an image's manifests and blobs come from, seen from the privileged side.

A :class:`ImageSource` answers with bytes that are not yet believed: who reads a blob checks its digest at the end.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from als.errors import DeadlineExceeded, DigestMismatch, LimitExceeded, WorkerError
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

    def close(self) -> None: ...


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

    def close(self) -> None:
        """Nothing is held open."""


class RegistryImages:
    """A repository of a registry, through a fetch worker.

    :param stall: seconds without a byte after which a request is given up.
    """

    def __init__(self, workers: Workers, params: dict[str, object], where: str, *, stall: float) -> None:
        self._where = where
        self._stall = stall
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._worker: Worker = workers.fetch(params, theirs.fileno())

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

    def close(self) -> None:
        self._requests.close()
        self._worker.kill()

    def begin(self, request: dict[str, object]) -> socket.socket:
        """Make a request to the worker; the socket on which it answers in frames is the caller's.

        :raises WorkerError: the worker has ended.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._requests, [json.dumps(request).encode()], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise WorkerError(f"the fetch worker has ended: {error}", where=self._where) from error
        return ours

    def _ask(self, request: dict[str, object]) -> Iterator[tuple[int, memoryview]]:
        with self.begin(request) as ours:
            last = time.monotonic()

            def idle() -> None:
                if time.monotonic() - last > self._stall:
                    raise DeadlineExceeded(
                        f"no byte came for {self._stall:.0f} seconds",
                        where=f"{self._where} {request.get('digest', '')}".strip(),
                    )

            begun = False
            for kind, body in FrameReader(ours.fileno(), idle).frames():
                last = time.monotonic()
                if kind == END:
                    return
                # What a worker could send for ever without anything coming of it.
                if kind not in (HEADER, DATA) or not body or (begun and kind == HEADER):
                    raise WorkerError("a worker broke the protocol", where=self._where)
                begun = True
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
