"""Publishing what the store has already, for a client that is about to pull it by itself.

The client writes down what it uses only when its pull is complete. Until then the reference's record holds the image, so it
is renewed here although nothing was fetched (:mod:`als.store.liveness` says how long one counts that nobody asked for).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from als.errors import NotFound
from als.model.digest import Digest
from als.model.reference import Reference
from als.service import listing
from als.service.naming import named
from als.store.lock import sharing
from als.store.uptime import Uptime

if TYPE_CHECKING:
    from als.service.core import Service

_RENEW_SECONDS = 60.0


def offer(service: Service, reference: Reference, digest: Digest) -> bool:
    """Publish the image with this manifest as what `reference` names now; False: not all of it is in the store.

    :raises AlsError: it could not be published.
    """
    name = str(reference)
    with sharing(service.layout.lock, timeout=service.config.lookup_deadline):
        before = service.images.ref(name)
        moved = before is None or before.digest != digest
        try:
            publish = partial(service.publish, service.images.get(digest))
            if before is None or moved or before.renewed.is_over(_RENEW_SECONDS, Uptime.now()):
                named(service, name, digest, digest if before is None or moved else before.listed, publish)
            else:
                publish()
        except NotFound:
            return False
        if moved and before is not None and before.asked:
            listing.update(service)
    return True


def worth_pulling(service: Service, layers: int) -> bool:
    """Whether any client could use an image of so many layers from an image store; if not, it is left to the client whole."""
    return any(store.fits(layers) for store in service.publishing)
