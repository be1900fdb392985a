"""What a daemon does once after its start, beside serving: it fetches again what was lost, and settles what clients hold.

An image whose layers went into quarantine (:mod:`als.service.torn`) is pulled again as it was, by the manifest that the store
has, whatever its tag names by now. Where that fails, for want of a network as a rule, the next pull of the image does it.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from als.errors import AlsError
from als.model.digest import Digest
from als.model.reference import parse_reference
from als.registry.source import RawManifest
from als.service.core import Service
from als.service.removal import settle_uses
from als.store.images import ImageRecord, RefRecord
from als.store.lock import sharing

log = logging.getLogger(__name__)


class Healing:
    """A thread of its own; a context manager, that ends it. What is fetched meanwhile is kept for the next time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="healing", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def begin(self) -> None:
        """The daemon serves."""
        self._thread.start()

    def _run(self) -> None:
        try:
            heal(self._service, self._stopping)
            with sharing(self._service.layout.lock):
                settle_uses(self._service)
        except AlsError as error:
            log.warning("%s", error)


def heal(service: Service, stopping: threading.Event) -> None:
    """Pull images again of which something is missing.

    :raises StoreDamaged: a record cannot be read.
    """
    for ref in service.images.refs():
        if stopping.is_set():
            return
        try:
            image = service.images.get(ref.digest)
            if missing(service, image):
                log.info("%s is fetched again: some of its layers are missing", ref.reference)
                _pull_again(service, ref, image, stopping)
        except AlsError as error:
            log.warning("%s is not complete, pull it again: %s", ref.reference, error)


def missing(service: Service, image: ImageRecord) -> list[Digest]:
    """The DiffIDs of an image's layers that are neither here nor served lazily."""
    found = []
    for index, diff_id in enumerate(image.config.diff_ids):
        try:
            service.layer_of(image, index)
        except AlsError:
            found.append(diff_id)
    return found


def _pull_again(service: Service, ref: RefRecord, image: ImageRecord, stopping: threading.Event) -> None:
    index = None if ref.listed == image.digest else service.images.index(image.digest, ref.listed)
    listed = RawManifest(image.media_type, image.manifest_data, image.digest)
    has = None
    if index is not None:
        # The same image of it, which need not be the one for this machine.
        listed, has = RawManifest("", index, ref.listed), image.manifest.layers[0].digest
    reference = parse_reference(ref.reference)
    service.pull(reference, has=has, listed=listed, asked=ref.asked, lazily=not ref.asked, given_up=stopping.is_set)
