"""Images and their references, on the way into the lists of clients.

An image has its name when its layers are on the disk, and before the last of them is listed.

A client that finds all layers in the list asks als for none of them; so if als were killed after the listing and before the
naming, that client would have an image that als knows nothing of: `als rm` would not find it, and nobody could fetch its files
again. The other way round the next start, or the next who asks, publishes what has a name. For that it needs the layers: nobody
waits until lazy ones have reached the disk, but for who lists them, so a name that came earlier could outlive a power cut that
its layers do not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from typing import TYPE_CHECKING

from als.errors import AlsError, NotFound, StoreError
from als.fetch.pull import Resolved
from als.model.digest import Digest
from als.model.logfields import about
from als.service import listing
from als.store.images import RefRecord

if TYPE_CHECKING:
    from als.service.core import Service

Publish = Callable[[Callable[[], None]], None]
"""Lists the layers of an image; what it is given it calls as an image store does before that
(:meth:`als.imagestore.tree.ImageStore.publish`)."""

log = logging.getLogger(__name__)


def named(
    service: Service, reference: str, digest: Digest, listed: Digest, publish: Publish, *, asked: bool = False
) -> RefRecord | None:
    """Let a reference name an image, and publish it; where that fails, the reference is what it was.

    :returns: what it named before.
    :raises AlsError: or OSError: as `publish`.
    :raises StoreError: the name cannot be written.
    """
    before = service.images.ref(reference)
    given: RefRecord | None = None

    def name() -> None:
        nonlocal given
        if given is None:
            given = service.images.renewed(reference, digest, listed, asked=asked)
            service.images.put_ref(given)

    try:
        publish(name)
        # What was listed already is on the disk.
        name()
    except (AlsError, OSError):
        if given is not None:
            service.images.take_back(given, before)
        raise
    return before


def record(service: Service, resolved: Resolved, publish: Publish, *, asked: bool) -> None:
    """Keep an image whose layers are all here, under the reference it was pulled by, and publish it.

    :raises AlsError: or OSError: it could not be published, or kept.
    """
    digest, reference = resolved.image.digest, str(resolved.reference)
    service.images.put(resolved.image)
    if resolved.listed != digest:
        service.images.keep_index(digest, resolved.listed, resolved.listed_data)
    before = named(service, reference, digest, resolved.listed, publish, asked=asked)
    ref = service.images.ref(reference)
    try:
        if service.lazies is not None:
            # Layers may have become complete before there was an image that names them.
            service.lazies.settle(resolved.image)
            count = len(resolved.image.manifest.layers)
            log.info("pulled %s %s, %d layers", reference, digest, count, extra=about("pulled", image=reference))
        if ref is not None and ref.asked:
            listing.update(service)
    except StoreError:
        if before is None and ref is not None:
            # What is not listed was not pulled, and holds nothing.
            service.images.take_back(ref, None)
        raise


def publish_named(service: Service, diff_ids: Set[Digest]) -> None:
    """Publish what has a name of the images with any of these layers, where als was killed before it was listed. What cannot be
    published is said in the log. The caller holds the store's lock.

    :raises StoreDamaged: a reference cannot be read.
    """
    # Without lazy layers a start reads no records for this.
    for ref in service.images.refs() if diff_ids else ():
        try:
            image = service.images.get(ref.digest)
            if not diff_ids.isdisjoint(image.config.diff_ids):
                service.publish(image)
        except NotFound:
            # Fetched again when all is served (als.service.healing), which tells of it.
            continue
        except (AlsError, OSError) as error:
            log.warning("%s is not served: %s", ref.reference, error)
