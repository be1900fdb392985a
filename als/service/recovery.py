"""What a start does before anything is served: it brings back what a reboot or a crash took."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from als.errors import AlsError, LockTimeout
from als.model.digest import Digest
from als.mount.propagation import ensure_shared
from als.mount.table import find_mount, read_mounts
from als.service import listing
from als.service.core import Service
from als.service.removal import sweep
from als.store.lock import locked, sharing
from als.store.uses import Use

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mounts:
    """How many layers are listed that als has to mount, and the chain IDs of those that are not mounted."""

    layers: int
    missing: tuple[str, ...]


def bring_back_mounts(service: Service) -> Mounts:
    """Mount what is listed and not mounted; why a layer could not be, the log says."""
    ensure_shared(service.layout.root)
    with sharing(service.layout.lock):
        service.diff_n.remount()
        mounts = read_mounts()
        listed = tuple(service.diff_n.published())
    return Mounts(len(listed), tuple(each for each in listed if find_mount(service.diff_n.diff(each), mounts) is None))


def recover(service: Service) -> None:
    """Bring back mounts and publications; remove what was left half made."""
    ensure_shared(service.layout.root)
    _sweep(service)
    service.clients.note()
    with sharing(service.layout.lock):
        service.diff_n.remount()
    for use in service.uses.all():
        try:
            _serve_again(service, use)
        except AlsError as error:
            log.warning("%s %s is not served: %s", use.reference, use.digest, error)
    for ref in service.images.refs():
        try:
            with sharing(service.layout.lock):
                service.publish(service.images.get(ref.digest))
        except AlsError as error:
            log.warning("%s is not served: %s", ref.reference, error)
    with sharing(service.layout.lock):
        listing.update(service)


def _serve_again(service: Service, use: Use) -> None:
    held = Digest.parse(use.digest)
    image = service.known_image(use.reference, held)
    index = service.index_of(image, held) if image is not None else None
    if image is not None and index is not None:
        service.serve_layer(use.reference, held, image, index)


def _sweep(service: Service) -> None:
    """Remove aborted attempts, unless somebody is at work."""
    try:
        with locked(service.layout.lock, timeout=0.0):
            sweep(service.layout)
    except LockTimeout:
        log.info("the store is in use by another process; aborted attempts are left for the next start")
