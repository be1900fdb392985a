"""Pulling images into the store and publishing them to clients.

Publication always takes the same way: a layer is complete in the store, then mounted and listed in the image store under
its chain ID, and only then is a lookup through the Additional Layer Store answered. containers/storage then finds the layer
in the image store and never makes one of its own (docs/architecture.md says why that matters).
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from als.config import Config
from als.errors import BadReference, NotFound, StoreFull
from als.fetch.choosing import overlook
from als.fetch.progress import Progress, Silent
from als.fetch.pull import Puller, Resolved, layer_names, names_of
from als.fetch.source import ImageSource
from als.imagestore.composefs import ComposefsStore
from als.imagestore.diffn import DiffNStore
from als.imagestore.links import PlainLinks
from als.imagestore.records import PublishedLayer
from als.imagestore.tree import ImageStore
from als.model.counting import Counters, NotCounted
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.logfields import about
from als.model.manifest import layer_compression, toc_digest
from als.model.reference import Reference, parse_reference
from als.mount.erofs import ensure_mounted
from als.mount.table import MountReader, read_mounts
from als.registry.environment import Environment
from als.registry.host import host_platform
from als.registry.mirrored import addresses
from als.registry.source import RawManifest
from als.service import listing
from als.service.clients import Clients
from als.service.naming import record
from als.service.removal import free_after_failure
from als.service.sealing import seal_layers
from als.service.shelf import Shelf
from als.store.images import ImageRecord, Images, RefRecord
from als.store.layers import Layers
from als.store.layout import Layout
from als.store.lock import locked, sharing
from als.store.reserve import keep_reserve
from als.store.uses import Uses
from als.verity.policy import Mode, Policy
from als.worker.client import Workers

if TYPE_CHECKING:
    from als.service.lazily import Lazies

log = logging.getLogger(__name__)


class Service:
    """The store and everything that works on it. Thread-safe; several processes may have one on the same ROOT."""

    def __init__(
        self,
        config: Config,
        *,
        workers: Workers | None = None,
        limits: Limits = DEFAULT_LIMITS,
        counters: Counters | None = None,
    ) -> None:
        """
        :param workers: others than the configuration's own; closed with this.
        :param limits: what a single image may ask for.
        :param counters: told of bytes and reads; None: nobody asks.
        """
        self.config = config
        self.layout = Layout(config.root)
        self.layers = Layers(self.layout)
        self.images = Images(self.layout)
        self.uses = Uses(self.layout)
        self.verity = Policy(Mode(config.verity), config.root)
        self.diff_n = DiffNStore(self.layout, self.layers, self.verity)
        self.composefs = ComposefsStore(self.layout, self.layers)
        self.image_stores: tuple[ImageStore, ...] = (self.diff_n, self.composefs)
        self.workers = workers or Workers(config.worker_ids(), config.run / "empty")
        self.links = PlainLinks(self.layout)
        self.limits = limits
        self.counters: Counters = counters or NotCounted()
        self.lazies: Lazies | None = None
        """Layers that are served before all of them is here: a daemon's alone."""
        self._surround(Environment.current, os.environ)

    def within(self, environment: Environment) -> Service:
        """This service as somebody in another environment would have it: with his credentials, registries, policy and clients.

        Store, workers and what threads exclude each other by are shared, so it is neither entered nor left by itself.
        """
        other = copy.copy(self)
        other._surround(lambda: environment, environment.variables)
        return other

    @property
    def environment(self) -> Environment:
        """Whose credentials, registries, policy and clients count: our own process's as it is now, or the one given."""
        return self._environment()

    def _surround(self, environment: Callable[[], Environment], variables: Mapping[str, str]) -> None:
        config = self.config
        self._environment = environment
        self.clients = Clients(config, self.layout, self.image_stores, variables)
        self.publishing = tuple(store for store in self.image_stores if store.layout in self.clients.layouts())
        """The image stores in which images are published; what others hold stays until gc removes it."""
        self.puller = Puller(
            self.layout,
            self.layers,
            self.workers,
            host_platform(),
            environment,
            stall=config.lookup_deadline,
            parallel=config.layers_at_once(),
            limits=self.limits,
            leave_out=addresses(config.mirror_port),
            tar_splits=[store.tar_split_form for store in self.publishing],
            counters=self.counters,
            policy=self.verity,
        )

    def __enter__(self) -> Service:
        """Make the store if there is none.

        :raises StoreError: it cannot be made or read.
        """
        self.layout.create()
        keep_reserve(self.layout)
        self.config.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        for store in self.image_stores:
            # Also those that are not published to: podman fails as a whole where storage.conf names a missing folder.
            store.create()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.workers.close()

    def pull(
        self,
        reference: Reference,
        progress: Progress | None = None,
        *,
        has: Digest | None = None,
        wanted: Callable[[ImageRecord], bool] = lambda image: True,
        published: Callable[[ImageRecord, int], None] = lambda image, count: None,
        asked: bool = False,
        lazily: bool = False,
        listed: RawManifest | None = None,
        anonymous: bool = False,
        near: ImageSource | None = None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> ImageRecord:
        """Have an image's layers in the store, published.

        :param has: a digest by which one of the layers is known; chooses between the platforms of an index.
        :param wanted: asked once the image is known; False: nothing is fetched.
        :param published: told whenever more layers, counted from the lowest, are ready for clients.
        :param asked: the administrator asks for it, so the image is listed as well, if the policy lets clients run it.
        :param lazily: publish layers that can be read before they are here as soon as their tables of contents are.
        :param listed: what the reference names, where that was asked for already.
        :param anonymous: for somebody who may not use root's credentials.
        :param near: the same repository, through connections that are open already: for what is small.
        :param given_up: asked again and again; True: nobody waits for it any more.
        :raises Abandoned: `given_up` said so; complete layers are kept.
        :raises PolicyDenied: the policy rejects what is asked for.
        :raises StoreFull: nothing is kept that only this pull brought.
        :raises AlsError: it could not be done; complete layers are kept.
        """
        if asked:
            listing.verdict(reference, self.environment.home).check(reference)
        try:
            with ExitStack() as stack:
                stack.enter_context(sharing(self.layout.lock))
                opening = stack.enter_context(self.lazies.opening(reference, has)) if lazily and self.lazies else None
                foresee = overlook if opening is None else opening.foresee
                resolving = self.puller.resolved(
                    reference, has, listed=listed, anonymous=anonymous, near=near, given_up=given_up, foresee=foresee
                )
                resolved = stack.enter_context(resolving)
                image = resolved.image
                if wanted(image):
                    told = progress or Silent()
                    opened = () if opening is None else opening.finish(image, told)
                    self._fill(resolved, opened, told, published, asked, given_up)
                return image
        except StoreFull:
            free_after_failure(self)
            raise

    def _fill(
        self,
        resolved: Resolved,
        opened: Collection[Digest],
        progress: Progress,
        published: Callable[[ImageRecord, int], None],
        asked: bool,
        given_up: Callable[[], bool],
    ) -> None:
        image = resolved.image

        def report(count: int) -> None:
            publish = partial(self._publish, image, count, asked=asked)
            if count == len(image.manifest.layers):
                record(self, resolved, publish, asked=asked)
            else:
                publish()
            if self.lazies is not None:
                of, where = len(image.manifest.layers), about("published", image=resolved.reference)
                log.info("%s: %d of %d layers are published", resolved.reference, count, of, extra=where)
            published(image, count)

        shelf = Shelf(image, report)
        if opened:
            shelf.add(opened)
        self.puller.fill(resolved, shelf.add, progress, given_up, besides=opened)
        if not image.manifest.layers:
            record(self, resolved, lambda _: None, asked=asked)

    def find(self, name: str) -> ImageRecord:
        """An image in the store by the reference it was pulled by, or by (a unique beginning of) its digest.

        :raises NotFound: there is none.
        """
        ref = self.ref_of(name)
        if ref is not None:
            return self.images.get(ref.digest)
        digits = name.removeprefix("sha256:")
        found = [image for image in self.images.all() if len(digits) >= 6 and image.digest.hex.startswith(digits)]
        if len(found) == 1:
            return found[0]
        what = "several images have a digest that begins so" if found else "no such image in the store"
        raise NotFound(what, where=name, hint="see `als images`")

    def ref_of(self, name: str) -> RefRecord | None:
        """What the store has under a reference as the user writes it; None also for what is no reference."""
        try:
            return self.images.ref(str(parse_reference(name)))
        except BadReference:
            return None

    def known_image(self, reference: str, digest: Digest) -> ImageRecord | None:
        """The image in the store that a reference names, or that it named when a client took the layer of that digest."""
        ref = self.images.ref(reference)
        candidates = [] if ref is None else [self.images.get(ref.digest)]
        if self.uses.count(reference, str(digest)):
            # The tag has moved since, but the client mounts what it pulled then by the same path.
            candidates += self.images.all()
        return next((image for image in candidates if digest in layer_names(image)), None)

    def index_of(self, image: ImageRecord, digest: Digest) -> int | None:
        """Which of an image's layers has that digest; the lowest of several."""
        for index, layer in enumerate(image.manifest.layers):
            if digest in names_of(layer):
                return index
        return None

    def refusal(self, image: ImageRecord, digest: Digest) -> str:
        """Why a layer is left to the client to pull as ever; "" where it is not."""
        by_blob = [layer.digest for layer in image.manifest.layers]
        if layer_names(image).count(digest) > 1:
            return "the image lists this layer more than once"
        if digest in by_blob and not self.diff_n.fits(len(by_blob)):
            return f"podman 4 cannot mount {len(by_blob)} layers of an additional store"
        return ""

    def layer_of(self, image: ImageRecord, index: int) -> PublishedLayer:
        """A layer of an image at its place. It is found by its blob only if that was seen to hold it
        (als.fetch.blobcheck), and by its table of contents only if that was read and tells of what the layer shows
        (als.fetch.tocs): the manifest alone could have anybody's containers run on it.

        :raises NotFound: the layer is not in the store, and is not served lazily.
        """
        chain = image.chain
        descriptor, diff_id = image.manifest.layers[index], image.config.diff_ids[index]
        toc = toc_digest(descriptor)
        record = self.layers.get(diff_id) if self.layers.has(diff_id) else None
        if record is None or (toc is not None and toc not in record.tocs):
            key = self._lazy_key(image, index)
            if key:
                return PublishedLayer(
                    chain[index],
                    chain[index - 1] if index else "",
                    diff_id,
                    -1,
                    None,
                    descriptor.size,
                    layer_compression(descriptor.media_type),
                    time.time(),
                    toc,
                    lazy=key,
                )
        record = record or self.layers.get(diff_id)
        return PublishedLayer(
            chain[index],
            chain[index - 1] if index else "",
            record.diff_id,
            record.diff_size,
            descriptor.digest if record.is_held_by(descriptor.digest) else None,
            descriptor.size,
            layer_compression(descriptor.media_type),
            record.created,
            toc if toc in record.tocs else None,
        )

    def serve_layer(self, reference: str, digest: Digest, image: ImageRecord, index: int) -> PublishedLayer:
        """Make a layer ready for a client of the ALS protocol: listed in the image store, mounted by itself, and
        reachable below the FUSE mount when no daemon runs.

        :raises NotFound: it was removed in the meantime, or is asked for by a digest that it was not seen to have.
        :raises KernelError: it cannot be mounted.
        """
        with sharing(self.layout.lock, timeout=self.config.lookup_deadline):
            layer = self.layer_of(image, index)
            if digest not in (layer.blob, layer.toc) and not self._held_before(reference, digest, image, index):
                raise NotFound("the layer is not known to be what this blob or table of contents tells of", where=str(digest))
            self._publish(image, index + 1)
            diff = self.diff_of(layer)
            with locked(self.layout.locks / (layer.lazy or layer.diff_id.hex), timeout=self.config.lookup_deadline):
                verify = None if layer.lazy else self.verity.verifier(self.layers.get(layer.diff_id).verity, str(layer.diff_id))
                ensure_mounted(diff.with_name("layer.erofs"), diff, verify=verify)
            if not layer.lazy:
                self.links.place(reference, [(digest, diff)])
            return layer

    def diff_of(self, layer: PublishedLayer) -> Path:
        """Where a layer is mounted for clients of the ALS protocol; beside it are ``diff1`` and, of a lazy one, ``diff2``."""
        return self.layout.lazy / layer.lazy / "diff" if layer.lazy else self.layers.mount_point(layer.diff_id)

    def _lazy_key(self, image: ImageRecord, index: int) -> str:
        """The key of the lazy layer that stands, or can stand, for an image's layer; "" where there is none."""
        listed = self.composefs.lazy_key(image.toc_chain[index])
        if listed is not None:
            return listed
        if self.lazies is None:
            return ""
        return self.lazies.key_of(image.manifest.layers[index], image.config.diff_ids[index])

    def is_known_by(self, reference: str, digest: Digest, image: ImageRecord, index: int) -> bool:
        """Whether a layer may be served by one of its names; False for a blob that a pull has yet to verify."""
        return (
            digest != image.manifest.layers[index].digest
            or self.layer_of(image, index).blob is not None
            or self._held_before(reference, digest, image, index)
        )

    def _held_before(self, reference: str, digest: Digest, image: ImageRecord, index: int) -> bool:
        """Whether a client has taken a layer by its blob already, which was possible without a check once. It goes on having
        what it has; the layer's description does not name the blob any more."""
        return digest == image.manifest.layers[index].digest and self.uses.count(reference, str(digest)) > 0

    def publish(
        self, image: ImageRecord, durable: Callable[[], None] = lambda: None, *, mounts: MountReader = read_mounts
    ) -> None:
        """Mount and list all layers of an image that are complete, or served lazily. The caller holds the store's lock.

        :param durable: and `mounts`, as for :meth:`als.imagestore.tree.ImageStore.publish`, for each of the image stores.
        :raises NotFound: a layer is not in the store.
        :raises KernelError: one cannot be mounted.
        """
        self._publish(image, len(image.manifest.layers), durable, mounts=mounts)

    def _publish(
        self,
        image: ImageRecord,
        count: int,
        durable: Callable[[], None] = lambda: None,
        *,
        asked: bool = False,
        mounts: MountReader = read_mounts,
    ) -> None:
        """Make ready and list an image's lowest `count` layers, for those clients that can mount them all in the end."""
        layers = [self.layer_of(image, index) for index in range(count)]
        if asked or self.verity.required:
            # Else nobody waits for what is here already to be read again.
            seal_layers(self, layers)
        for store in self.publishing:
            if store.fits(len(image.manifest.layers)):
                store.publish(layers, mounts, durable)
