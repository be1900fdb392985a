"""The lazy layers of a running daemon: opened for a lookup, shown, filled, and made complete.

::

    lookup, mirror --open--> LazyStore --list--> ROOT/image-store, by TOC alone
                                 |
    FUSE --read--> LazyLayer <---+--- background
                       | all files are here
                    keeper --seal--> ROOT/layers --settle--> the same entry, complete; the plain chain IDs are listed

One thread, the keeper, does what takes long and nobody waits for: it finds the layers of a daemon before this one, seals those
whose files are all here, and forgets those that gc has removed. gc runs in another process and knows of us only that the
store's lock is not held: what we write outside of it are files of lazy folders and names of their files in objects/, neither
of which anybody else takes for more than it is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Self

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.errors import AlsError, BadImage, DigestMismatch, NotFound
from als.fetch.source import RepositorySource
from als.fetch.tocmatch import difference
from als.formats.lazy import tree_of
from als.imagestore.records import by_toc
from als.lazy.complete import Sealer
from als.lazy.engine import Engine
from als.lazy.layer import LazyLayer
from als.lazy.link import Link
from als.lazy.partial import SEALED
from als.lazy.profiles import Profiles
from als.lazy.store import PATIENCE, LazyStore
from als.model.digest import Digest
from als.model.forest import forest_path
from als.model.manifest import STARGZ_TOC, Descriptor, toc_digest
from als.model.reference import Reference, parse_reference
from als.service import listing
from als.service.held import HeldBlobs
from als.service.naming import publish_named
from als.service.opening import Opening
from als.service.starts import Starts
from als.store.images import ImageRecord
from als.store.lock import locked, sharing
from als.store.refused import store_errors

if TYPE_CHECKING:
    from als.service.core import Service

log = logging.getLogger(__name__)

_ROUND_SECONDS = 5.0
_AGAIN_SECONDS = 30.0
"""Between two attempts to seal a layer."""
_REST_LEAST = 256 << 10
_REST_PART = 50
"""What may be fetched unasked for the DiffID alone: this much, or one part in so many of the blob."""
_FILL_AFTER_SECONDS = 1.0
"""What a container needs to start goes before the rest of its image."""


class Lazies:
    """See the module. Thread-safe; a context manager, within which lazy layers are served."""

    def __init__(self, service: Service) -> None:
        config = service.config
        self._service = service
        self._engine = Engine(service.workers, counters=service.counters)
        if config.background_rate:
            self._engine.limit(float(config.background_rate))
        self._store = LazyStore(service.layout, self._engine, self._repository)
        self._sealer = Sealer(service.layout, service.layers, self._store, service.workers, policy=service.verity)
        self._starts = Starts(self._engine, service.layers, Profiles(service.layout, on=config.record_profiles))
        self._held = HeldBlobs(service.images, service.layers)
        self._ready: queue.SimpleQueue[LazyLayer | None] = queue.SimpleQueue()
        self._again: dict[str, float] = {}
        self._lock = threading.Lock()
        self._asked: set[str] = set()
        """Keys of the layers that somebody wants to be sealed."""
        self._watched: weakref.WeakSet[LazyLayer] = weakref.WeakSet()
        """Layers that the keeper is told of when they are here. Not their keys: one that was removed may come again."""
        self._serving = threading.Event()
        self._announce: Callable[[], None] = lambda: None
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="lazy keeper", daemon=True)

    def __enter__(self) -> Self:
        self._keeper.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._ready.put(None)
        self._starts.end()
        self._store.close()
        self._engine.close()
        self._keeper.join()

    def resume(self) -> None:
        """Serve the files of layers that a daemon before this one has left. To be called before anybody can ask for them."""
        with sharing(self._service.layout.lock):
            self._store.resume(lambda name: parse_reference(name).domain, self._service.limits)

    def begin(self, ready: Callable[[], None]) -> None:
        """The FUSE face answers: serve what was there before.

        :param ready: called when that is done, whatever came of it.
        """
        self._announce = ready
        self._serving.set()
        self._ready.put(None)

    # -- opening

    def opening(self, reference: Reference, has: Digest | None = None) -> Opening:
        """For one pull: opens the layers of an image that can be shown before they are here.

        :param has: by what a client asks for one of its layers.
        """
        link = self._engine.link(reference.domain)
        serving, begin = self._serving.is_set(), self._starts.begin
        return Opening(self._service, self._store, reference, has, serving, link, self._held, self.find, begin, self._watch)

    def _watch(self, layer: LazyLayer) -> None:
        with self._lock:
            if layer in self._watched:
                return
            self._watched.add(layer)
        if self._service.config.background:
            self._engine.at(time.monotonic() + _FILL_AFTER_SECONDS, layer.fill)
        layer.content.add_done_callback(lambda _: self._ready.put(layer))

    def _repository(self, reference: str) -> RepositorySource:
        return self._service.puller.repository(parse_reference(reference), settings=PATIENCE)

    # -- what is here

    def layers(self) -> list[LazyLayer]:
        """All that are served and not sealed yet."""
        return self._store.all()

    def key_of(self, descriptor: Descriptor, diff_id: Digest) -> str:
        """The key of the lazy layer that can be shown as an image's layer; "" where there is none."""
        layer = self.find(descriptor, diff_id)
        return layer.key if layer is not None and layer.refused is None and layer.record.image_sha256 else ""

    def find(self, descriptor: Descriptor, diff_id: Digest | None) -> LazyLayer | None:
        """The lazy layer of an image's layer, if there is one; without a DiffID, whichever has that blob."""
        toc = toc_digest(descriptor)
        for layer in self._store.all():
            record = layer.record
            same = record.descriptor.digest == descriptor.digest and diff_id in (None, record.diff_id)
            # gc tells nobody that it has removed one.
            if same and toc_digest(record.descriptor) == toc and layer.folder.path.exists():
                return layer
        return None

    def link(self, host: str) -> Link:
        """What is known of the way to a host."""
        return self._engine.link(host)

    def finish(self, key: str) -> None:
        """Fetch all of a layer, and seal it whatever that costs.

        :raises NotFound: there is no such layer, or it is sealed.
        """
        layer = self._store.get(key)
        with self._lock:
            self._asked.add(key)
        layer.fill()
        if layer.content.done():
            self._ready.put(layer)

    # -- for the FUSE face

    def has_layer(self, key: str) -> bool:
        """Whether files of a layer are served; also while containers may use it that began before it was sealed."""
        with contextlib.suppress(NotFound):
            return self._store.get(key).refused is None
        return (self._service.layout.lazy / key / SEALED).exists()

    def size(self, key: str, name: bytes) -> int:
        """Bytes of a file of a layer, by its name in the forest.

        :raises NotFound: there is no such file.
        """
        with contextlib.suppress(NotFound):
            return self._store.get(key).size(name)
        try:
            return (self._service.layout.lazy / key / "diff1" / forest_path(name)).stat().st_size
        except OSError as error:
            raise NotFound("the layer has no such file", where=f"{key} {name.hex()}") from error

    def identity(self, key: str, name: bytes) -> bytes:
        """What commits to every byte of a file (see :class:`als.fuse.backend.LazyFiles`).

        :raises NotFound: there is no such file.
        """
        with contextlib.suppress(NotFound):
            return self._store.get(key).identity(name)
        self.size(key, name)
        # All of it was hashed before it was sealed, or its name is made of its chunks' digests.
        return b"sealed " + name

    def read(self, key: str, name: bytes, offset: int, length: int) -> Future[bytes]:
        """Bytes of a file; the future fails with an AlsError, at the latest after the deadline of lookups."""
        with contextlib.suppress(NotFound):
            layer = self._store.get(key)
            self._starts.read(key, name, offset, length)
            return layer.read(name, offset, length, self._service.config.lookup_deadline)
        found: Future[bytes] = Future()
        try:
            found.set_result(self._read_sealed(key, name, offset, length))
        except AlsError as error:
            found.set_exception(error)
        return found

    def _read_sealed(self, key: str, name: bytes, offset: int, length: int) -> bytes:
        """From a file that was not here when a container opened it, and now is.

        :raises NotFound: it is gone.
        """
        path = self._service.layout.lazy / key / "diff1" / forest_path(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            what = "the layer does not have this file any more"
            raise NotFound(what, where=str(path), hint="start the container anew") from error
        try:
            with store_errors(path):
                return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    # -- the keeper

    def _keep(self) -> None:
        begun = False
        while not self._stopping.is_set():
            try:
                layer = self._ready.get(timeout=_ROUND_SECONDS)
            except queue.Empty:
                layer = None
            if self._stopping.is_set():
                return
            try:
                if self._serving.is_set() and not begun:
                    begun = True
                    try:
                        self._show_resumed()
                    finally:
                        self._announce()
                if layer is not None:
                    self._complete(layer)
                else:
                    self._look_after()
            except (AlsError, OSError) as error:
                log.warning("%s", error)

    def _show_resumed(self) -> None:
        """Let clients find the layers that a daemon before this one has left."""
        service = self._service
        with sharing(service.layout.lock):
            served = self._store.all()
            for layer in served:
                self._watch(layer)
            if self._stopping.is_set():
                return
            usable = {layer.key for layer in served}
            for chain_id, key in service.composefs.lazy_chains().items():
                if key in usable or (self._service.layout.lazy / key / SEALED).exists():
                    service.composefs.cover(chain_id)
                else:
                    log.warning("layer %s cannot be served any more; pull its image again", chain_id)
                    self._unpublish(key)
            publish_named(service, {layer.record.diff_id for layer in served})

    def _look_after(self) -> None:
        """Forget what gc has removed, and try again what could not be done."""
        now = time.monotonic()
        for layer in self._store.all():
            if not layer.folder.path.exists():
                log.info("%s %s was removed", layer.where, layer.digest, extra=layer.about("removed"))
                self._store.forget(layer)
            elif layer.content.done() and now >= self._again.get(layer.key, 0.0):
                self._complete(layer)

    def _complete(self, layer: LazyLayer) -> None:
        """Seal a layer all of whose files are here, and show it as what it is."""
        service = self._service
        if not layer.folder.path.exists() or (layer.content.exception() is not None and layer.refused is None):
            return
        self._again[layer.key] = time.monotonic() + _AGAIN_SECONDS
        try:
            with sharing(service.layout.lock):
                if self._is_dear(layer):
                    for chain_id, key in service.composefs.lazy_chains().items():
                        if key == layer.key:
                            service.composefs.uncover(chain_id)
                    return
                self._seal(layer)
                for image in service.images.all():
                    if layer.record.diff_id in image.config.diff_ids:
                        self.settle(image)
                self._starts.end(layer.key)
                self._store.sealed(layer)
                listing.update(service)
        except BadImage as error:
            self._withdraw(layer)
            what = "a layer is not what its image promises, and is not served any more: %s"
            log.error(what, error, extra=layer.about("refused"))
        else:
            log.info("%s %s is complete", layer.where, layer.digest, extra=layer.about("sealed"))
            self._again.pop(layer.key, None)
            with self._lock:
                self._asked.discard(layer.key)

    def _is_dear(self, layer: LazyLayer) -> bool:
        """Whether to seal a layer would mean to fetch much that no file needs.

        Of eStargz the headers of all files, which the DiffID is made of, lie in the units of the files; and those of files that
        the store had already were not fetched. Such a layer stays as it is, with all files here and native, until somebody
        wants it sealed (``als wait``).
        """
        with self._lock:
            asked = layer.key in self._asked
        if asked or layer.refused is not None:
            return False
        return self._sealer.missing(layer) > max(_REST_LEAST, layer.blob_size // _REST_PART)

    def _seal(self, layer: LazyLayer) -> None:
        """
        :raises BadImage: the layer is not what was promised.
        """
        service, record = self._service, layer.record
        toc = toc_digest(record.descriptor)
        sealed = self._sealer.seal(layer)
        if toc is None or toc in sealed.tocs:
            return
        # Either made of the lazy layer just now, or somebody else pulled it whole in the meantime.
        image = service.layers.image(record.diff_id)
        found = difference(
            tree_of(layer.index, service.limits),
            read_image_file(image, LAYER),
            toc if STARGZ_TOC in record.descriptor.annotations else None,
        )
        if found:
            error = DigestMismatch(f"its table of contents tells of another layer: {found}", where=layer.where)
            self._store.refuse(layer, error)
            raise error
        with locked(service.layout.locks / record.diff_id.hex, timeout=service.config.lookup_deadline):
            service.layers.add_toc(record.diff_id, toc)

    def settle(self, image: ImageRecord) -> None:
        """List those layers of an image as complete that were lazy and are complete now. The caller holds the store's lock."""
        service, composefs = self._service, self._service.composefs
        try:
            layers = [service.layer_of(image, index) for index in range(len(image.config.diff_ids))]
        except NotFound:
            # Some of it is still being fetched whole; who does that comes here afterwards.
            return
        # Not by the IDs that the manifest gives: what lies below may be known by its DiffID alone, whatever that says.
        chain = by_toc(layers)
        lazy = [index for index, each in enumerate(chain) if not layers[index].lazy and composefs.lazy_key(each.chain_id)]
        for index in lazy:
            composefs.settle(layers[: index + 1])
        # Also if they are settled, but the attempt before this one had no space to list them by their DiffIDs.
        if lazy or not composefs.ids_of(layers) <= composefs.published().keys():
            service.publish(image)

    def _withdraw(self, layer: LazyLayer) -> None:
        """Take away what shows a layer that is refused, and all that stands on it."""
        self._starts.end(layer.key)
        with sharing(self._service.layout.lock):
            self._unpublish(layer.key)

    def _unpublish(self, key: str) -> None:
        composefs = self._service.composefs
        listed = composefs.published()
        gone = {chain_id for chain_id, each in composefs.lazy_chains().items() if each == key}
        while above := {chain_id for chain_id, entry in listed.items() if entry.get("parent") in gone} - gone:
            gone |= above
        composefs.unpublish(gone)
