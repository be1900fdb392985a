"""The FUSE face's backend over the real store: thin, every decision is :class:`als.service.core.Service`'s."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from als.errors import BadReference, NotFound
from als.fetch.pull import names_of
from als.fetch.source import copy_blob
from als.fuse.backend import ByteFile, LazyFiles, ServedLayer
from als.model.digest import Digest
from als.model.reference import Reference, Transport, parse_reference
from als.service import Service
from als.service.flights import Flights
from als.store.images import ImageRecord
from als.store.lock import sharing


class StoreBackend:
    """Implements :class:`als.fuse.backend.Backend`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._flights = Flights(service)

    @property
    def lazy(self) -> LazyFiles | None:
        """See :attr:`als.fuse.backend.Backend.lazy`."""
        return self._service.lazies

    def lookup(self, reference: str, digest: str) -> ServedLayer | None:
        """See :meth:`als.fuse.backend.Backend.lookup`."""
        wanted = Digest.parse(digest)
        image = self._service.known_image(reference, wanted)
        if image is not None:
            if self._service.refusal(image, wanted):
                return None
            index = self._service.index_of(image, wanted)
            if index is None:
                return None
            if self._service.is_known_by(reference, wanted, image, index):
                return self._served(reference, wanted, image, index)
        found = self._flights.wait(_in_registry(reference), wanted, self._service.config.lookup_deadline)
        return None if found is None else self._served(reference, wanted, *found)

    def use(self, reference: str, digest: str) -> None:
        """See :meth:`als.fuse.backend.Backend.use`."""
        self._service.uses.change(reference, digest, +1)

    def release(self, reference: str, digest: str) -> None:
        """See :meth:`als.fuse.backend.Backend.release`."""
        self._service.uses.change(reference, digest, -1)

    def open_blob(self, reference: str, digest: str) -> ByteFile:
        """See :meth:`als.fuse.backend.Backend.open_blob`."""
        wanted = Digest.parse(digest)
        resolving = self._service.puller.resolved(_in_registry(reference), wanted)
        with sharing(self._service.layout.lock), resolving as resolved:
            for layer in resolved.image.manifest.layers:
                if wanted in names_of(layer):
                    path = self._service.layout.tmp / f"blob-{secrets.token_hex(6)}"
                    copy_blob(resolved.source, layer, path)
                    return UnlinkedFile(path)
        raise NotFound("no such layer in the image", where=f"{reference} {digest}")

    def _served(self, reference: str, digest: Digest, image: ImageRecord, index: int) -> ServedLayer:
        layer = self._service.serve_layer(reference, digest, image, index)
        return ServedLayer(
            layer.chain_id,
            self._service.diff_of(layer),
            json.dumps(layer.info()).encode(),
            layer.blob_size,
        )


def _in_registry(text: str) -> Reference:
    """The reference that a client asks for, if it is one of an image in a registry.

    The protocol knows no others. Whoever can have a path looked up must not have files of this machine read for it.

    :raises BadReference: it is malformed, or names a local file.
    """
    reference = parse_reference(text)
    if reference.transport is not Transport.DOCKER:
        raise BadReference("clients can ask for images in registries only", where=repr(text[:160]))
    return reference


class UnlinkedFile:
    """A temporary file's content; it has no name any more and goes with its last reader."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        path.unlink()
        self.size = os.fstat(self._fd).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`."""
        return os.pread(self._fd, length, offset)

    def close(self) -> None:
        """Give the space back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
