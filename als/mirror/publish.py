"""Having an image's layers published before its manifest is answered: once per image, however many ask.

A publication goes on when nobody waits for it any more: the next client wants the same. It runs in a thread, because the
service blocks; those who wait for it are tasks.
"""

from __future__ import annotations

import logging
import time
from functools import partial

import trio

from als.errors import AlsError, BadImage
from als.mirror.upstream import Source, Upstreams
from als.model.digest import Digest
from als.model.manifest import DOCKER_CONFIG, OCI_CONFIG, Descriptor, Manifest, layer_compression
from als.model.reference import Reference
from als.registry.source import RawManifest
from als.service import Service
from als.service.offers import offer, worth_pulling
from als.store.images import ImageRecord

log = logging.getLogger(__name__)

_AT_ONCE = 32
_TICK_SECONDS = 0.5


class _Publication:
    """One that is under way; its pull's Progress."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.last = time.monotonic()

    def begins(self, layer: Descriptor) -> None:
        self.last = time.monotonic()

    def advances(self, layer: Descriptor, count: int) -> None:
        self.last = time.monotonic()

    def done(self, layer: Descriptor, *, fetched: bool) -> None:
        self.last = time.monotonic()

    def wanted(self, service: Service, image: ImageRecord) -> bool:
        self.last = time.monotonic()
        return worth_pulling(service, len(image.manifest.layers))


class Publications:
    """Those that are under way.

    :param nursery: in which they run.
    :param upstreams: where the manifests come from.
    """

    def __init__(self, service: Service, nursery: trio.Nursery, upstreams: Upstreams) -> None:
        self._service = service
        self._upstreams = upstreams
        self._nursery = nursery
        self._limiter = trio.CapacityLimiter(_AT_ONCE)
        self._running: dict[tuple[str, Digest], _Publication] = {}

    async def wait(self, reference: Reference, raw: RawManifest, anonymous: bool) -> None:
        """Have the image published, or wait until that made no progress for the deadline of lookups. Whatever goes wrong is
        logged: the client then downloads for itself.

        :param raw: the manifest of an image (:func:`is_image`), which `reference` names.
        """
        key = (str(reference), raw.digest)
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = _Publication()
            self._nursery.start_soon(self._publish, key, running, reference, raw, anonymous)
        begun = time.monotonic()
        stall = self._service.config.lookup_deadline
        while not running.ended.is_set():
            if time.monotonic() - max(begun, running.last) > stall:
                log.warning("%s is answered before it is published: no progress for %g seconds", reference, stall)
                return
            with trio.move_on_after(_TICK_SECONDS):
                await running.ended.wait()

    async def _publish(
        self, key: tuple[str, Digest], running: _Publication, reference: Reference, raw: RawManifest, anonymous: bool
    ) -> None:
        try:
            async with self._upstreams.lent(reference, anonymous) as near:
                work = partial(self._work, running, reference, raw, anonymous, near)
                await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
        except (AlsError, OSError) as error:
            log.warning("%s is left to the client: %s", reference, error)
        finally:
            del self._running[key]
            running.ended.set()

    def _work(
        self, running: _Publication, reference: Reference, raw: RawManifest, anonymous: bool, near: Source | None
    ) -> None:
        if not offer(self._service, reference, raw.digest):
            wanted = partial(running.wanted, self._service)
            self._service.pull(reference, running, wanted=wanted, listed=raw, anonymous=anonymous, lazily=True, near=near)


def is_image(manifest: Manifest) -> bool:
    """Whether a manifest describes an image with layers of a kind that we know, and not a signature or another artifact."""
    try:
        for layer in manifest.layers:
            layer_compression(layer.media_type)
    except BadImage:
        return False
    return manifest.config.media_type in (OCI_CONFIG, DOCKER_CONFIG)
