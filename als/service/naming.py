"""Images and their references, on the way into the lists of clients.

An image has its name before its last layer is listed. A client that finds all layers in the list asks als for none of them; so
if als were killed after the listing and before the naming, that client would have an image that als knows nothing of: `als rm`
would not find it, and nobody could fetch its files again. The other way round the next start, or the next who asks, publishes
what has a name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from als.errors import AlsError, StoreError
from als.fetch.pull import Resolved
from als.model.digest import Digest
from als.model.logfields import about
from als.service import listing
from als.store.images import RefRecord

if TYPE_CHECKING:
    from als.service.core import Service

log = logging.getLogger(__name__)


def named(
    service: Service, reference: str, digest: Digest, listed: Digest, publish: Callable[[], None], *, asked: bool = False
) -> RefRecord | None:
    """Let a reference name an image, and publish it; where that fails, the reference is what it was.

    :returns: what it named before.
    :raises AlsError: or OSError: as `publish`.
    :raises StoreError: the name cannot be written.
    """
    before = service.images.ref(reference)
    try:
        service.images.name(reference, digest, listed, asked=asked)
        publish()
    except (AlsError, OSError):
        service.images.take_back(reference, before)
        raise
    return before


def record(service: Service, resolved: Resolved, publish: Callable[[], None], *, asked: bool) -> None:
    """Keep an image whose layers are all here, under the reference it was pulled by, and publish it.

    :raises AlsError: or OSError: it could not be published, or kept.
    """
    digest, reference = resolved.image.digest, str(resolved.reference)
    service.images.put(resolved.image)
    if resolved.listed != digest:
        service.images.keep_index(digest, resolved.listed, resolved.listed_data)
    before = named(service, reference, digest, resolved.listed, publish, asked=asked)
    try:
        ref = service.images.ref(reference)
        if service.lazies is not None:
            # Layers may have become complete before there was an image that names them.
            service.lazies.settle(resolved.image)
            count = len(resolved.image.manifest.layers)
            log.info("pulled %s %s, %d layers", reference, digest, count, extra=about("pulled", image=reference))
        if ref is not None and ref.asked:
            listing.update(service)
    except StoreError:
        if before is None:
            # What is not listed was not pulled, and holds nothing.
            service.images.take_back(reference, None)
        raise
