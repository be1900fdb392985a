"""One image's layers on their way to being lazy.

Tables of contents are asked for as soon as the manifest is known, while the image's configuration is still on its way: a
round trip and a worker's start less before anything can be shown. Only with the configuration are the DiffIDs known, by which
layers are told that the store has already; so what other images have of these blobs decides what is asked for beforehand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

from als.errors import Abandoned, AlsError, StoreFull
from als.fetch.progress import Progress
from als.fetch.source import ImageSource
from als.fetch.tocs import Asked, first_range, read_index
from als.formats.discovery import find_indexed, indexed_format_of
from als.formats.index import LayerIndex
from als.lazy.drawing import ImageWriter
from als.lazy.layer import LazyLayer
from als.lazy.link import Link
from als.lazy.names import MAX_ENTRIES
from als.lazy.rule import Blob, Way, judge
from als.lazy.store import LazyStore
from als.model.digest import Digest
from als.model.manifest import Descriptor, Manifest, toc_digest
from als.model.reference import Reference, Transport
from als.service.held import HeldBlobs
from als.store.images import ImageRecord

if TYPE_CHECKING:
    from als.service.core import Service

log = logging.getLogger(__name__)

_WARM = 4
"""Connections that are there when the first bytes are wanted: as many requests as are made then, hardly more."""
_AT_ONCE = 16
"""Tables of contents that are read at once for one image."""
_THREADS = 2 * _AT_ONCE
"""For these, and for what is asked for before them."""


class Opening:
    """A context manager; one for each pull.

    :param has: by what a client asks for one of the image's layers. Who names it by its blob can use it only when all of it is
        here.
    :param serving: whether anything could be shown lazily now.
    :param link: what is known of the way to the registry.
    :param held: which blobs need not be fetched.
    :param find: the lazy layer that there is already for a blob and DiffID (None: whichever).
    :param begin: told of the image and those of its layers that are about to be shown: what a container will need first is to
        be fetched ahead.
    :param drawn: told of each of them when it can be shown.
    """

    def __init__(
        self,
        service: Service,
        store: LazyStore,
        reference: Reference,
        has: Digest | None,
        serving: bool,
        link: Link,
        held: HeldBlobs,
        find: Callable[[Descriptor, Digest | None], LazyLayer | None],
        begin: Callable[[ImageRecord, Mapping[Digest, LazyLayer]], None],
        drawn: Callable[[LazyLayer], None],
    ) -> None:
        self._service = service
        self._store = store
        self._reference = reference
        self._has = has
        self._near: ImageSource | None = None
        self._link = link
        self._held = held
        self._find = find
        self._begin = begin
        self._drawn = drawn
        self._possible = (
            service.config.lazy != "never"
            and not service.verity.required
            and serving
            and reference.transport is Transport.DOCKER
            and any(store.takes_lazy for store in service.publishing)
        )
        self._formats = find_indexed()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="toc")
        self._asked: dict[Descriptor, Asked] = {}
        self._writers: dict[Descriptor, Future[ImageWriter | None]] = {}
        self._indexes: dict[Descriptor, Future[LayerIndex | None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
        for layer in list(self._writers):
            writer = self._writer(layer)
            if writer is not None:
                writer.close()
        self._store.leave(str(self._reference))

    def foresee(self, manifest: Manifest, near: ImageSource) -> None:
        """Begin to read the tables of contents of an image whose configuration is not here yet.

        :param near: the repository, through connections that are open already; closed only after `finish`.
        """
        if not self._possible or self._has in [layer.digest for layer in manifest.layers]:
            return
        self._near = near
        held = self._held.blobs()
        missing = [layer for layer in manifest.layers if layer.digest not in held]
        wanted = [layer for layer in missing if self._find(layer, None) is None and self._pays(layer, len(missing))]
        for layer in wanted[:_AT_ONCE]:
            self._ask(layer, near)
        for layer in wanted[:1] * _WARM:
            self._pool.submit(self._warm, layer)
        for layer in wanted:
            self._read(layer)

    def finish(self, image: ImageRecord, progress: Progress) -> dict[Digest, LazyLayer]:
        """Those layers of the image, by DiffID, that can be shown now, before they are here; the others are to be fetched
        whole. The caller holds the store's lock.

        :param progress: told of each step of a layer; those of large ones take seconds.
        :raises StoreFull: the disk is.
        :raises Abandoned: als is being stopped.
        """
        if not self._possible or self._has in [layer.digest for layer in image.manifest.layers]:
            return {}
        by_id = dict(zip(image.config.diff_ids, image.manifest.layers, strict=True))
        missing = {diff_id: layer for diff_id, layer in by_id.items() if not self._service.layers.has(diff_id)}
        found: dict[Digest, LazyLayer] = {}
        wanted: dict[Digest, Descriptor] = {}
        for diff_id, layer in missing.items():
            known = self._find(layer, diff_id)
            if known is not None:
                found |= {diff_id: known} if known.refused is None else {}
            elif self._pays(layer, len(missing)):
                wanted[diff_id] = layer
                self._read(layer)
        made = {diff_id: self._pool.submit(self._made, layer, diff_id, progress) for diff_id, layer in wanted.items()}
        for diff_id, future in made.items():
            opened = future.result()
            if opened is not None:
                found[diff_id] = opened
        early = all(layer.record.image_sha256 or len(layer.index) <= MAX_ENTRIES for layer in found.values())
        if early:
            # While the images are being written, the link has nothing else to do.
            self._begin(image, found)
        shown = {diff_id: self._pool.submit(self._draw, layer, by_id[diff_id], progress) for diff_id, layer in found.items()}
        found = {diff_id: layer for diff_id, layer in found.items() if shown[diff_id].result()}
        if not early:
            self._begin(image, found)
        return found

    def _pays(self, layer: Descriptor, count: int) -> bool:
        """Whether a layer has a table of contents, and to show it lazily is quicker than to fetch it."""
        if toc_digest(layer) is None:
            return False
        if self._service.config.lazy == "always":
            return True
        verdict = judge(Blob(layer.size), Way.of(self._link), count)
        if not verdict.pays:
            log.info("%s %s: %s", self._reference, layer.digest, verdict)
        return verdict.pays

    def _ask(self, layer: Descriptor, near: ImageSource) -> None:
        """Have the first bytes of a table of contents come. Everything waits for them, so they are asked for before all else:
        before the configuration takes the connection that is open already, and before there is a worker that asks for them."""
        wanted = indexed_format_of(self._formats, layer.media_type, layer.annotations)
        first = None if wanted is None else first_range(layer, wanted, self._service.limits)
        if first is not None:
            answer = self._pool.submit(near.read_at, layer, first.offset, first.length)
            self._asked[layer] = Asked(near, layer, first, answer)

    def _read(self, layer: Descriptor) -> None:
        if layer not in self._indexes:
            if len(self._writers) < _AT_ONCE:
                self._writers[layer] = self._pool.submit(self._new_writer)
            self._indexes[layer] = self._pool.submit(self._index, layer)

    def _new_writer(self) -> ImageWriter | None:
        """Who makes a layer's image while the layer's table of contents is read; None: that is for later."""
        try:
            return self._store.image_writer(self._service.limits)
        except (AlsError, OSError) as error:
            log.info("%s: %s", self._reference, error)
            return None

    def _rows(self, layer: Descriptor) -> int | None:
        """Where the entries of a layer's table of contents are written to as they come."""
        writer = self._writers[layer].result() if layer in self._writers else None
        return None if writer is None else writer.rows

    def _writer(self, layer: Descriptor) -> ImageWriter | None:
        """The writer of a layer's image, which is the caller's from now on."""
        future = self._writers.pop(layer, None)
        return None if future is None or future.cancelled() else future.result()

    def _index(self, layer: Descriptor) -> LayerIndex | None:
        service, reference = self._service, self._reference
        try:
            return read_index(
                self._asked.get(layer) or self._near or self._origin(),
                layer,
                service.workers,
                tag=reference.tag or "",
                stall=service.config.lookup_deadline,
                limits=service.limits,
                rows=lambda: self._rows(layer),
            )
        except AlsError as error:
            self._whole(error)
            return None

    def _origin(self) -> ImageSource:
        """Whom the layers' bytes will be asked of."""
        return self._store.origin(str(self._reference), self._reference.domain).source()

    def _warm(self, layer: Descriptor) -> None:
        """Have one connection more ready when the first bytes are wanted: requests at the same time have each their own."""
        try:
            self._origin().read_at(layer, 0, 1)
        except AlsError as error:
            log.info("%s: %s", self._reference, error)

    def _made(self, layer: Descriptor, diff_id: Digest, progress: Progress) -> LazyLayer | None:
        index = self._indexes[layer].result()
        progress.advances(layer, 0)
        wanted = indexed_format_of(self._formats, layer.media_type, layer.annotations)
        if index is None or wanted is None:
            return None
        reference, limits = self._reference, self._service.limits
        try:
            writer = self._writer(layer)
            return self._store.open(str(reference), reference.domain, layer, diff_id, index, wanted.name, limits, writer)
        except (StoreFull, Abandoned):
            raise
        except AlsError as error:
            self._whole(error)
            return None

    def _draw(self, layer: LazyLayer, descriptor: Descriptor, progress: Progress) -> bool:
        """Whether the layer can be shown now."""
        try:
            self._store.draw(layer, self._service.limits)
        except (StoreFull, Abandoned):
            raise
        except AlsError as error:
            self._whole(error)
            return False
        progress.advances(descriptor, 0)
        self._drawn(layer)
        return True

    def _whole(self, error: AlsError) -> None:
        log.warning("%s: a layer is fetched whole: %s", self._reference, error)
