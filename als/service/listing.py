"""Which images the image stores list: those that the administrator asked for and the policy lets clients run unasked.

An image that came by a client's own pull is not listed: the client has a record of its own, and after its ``rmi`` ours would
bring the image back.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from als.errors import AlsError
from als.imagestore.images import Asked, ListedImage, listed_images
from als.imagestore.policy import may_list
from als.imagestore.tree import ImageStore
from als.model.policy import Listing, ListingVerdict
from als.model.reference import Reference, parse_reference

if TYPE_CHECKING:
    from als.service.core import Service

log = logging.getLogger(__name__)


def verdict(reference: Reference) -> ListingVerdict:
    """What the policy of the user as whom als runs says of an image.

    :raises ConfigError: the policy cannot be read.
    """
    return may_list(reference, Path.home())


def update(service: Service) -> None:
    """Have every image store list what it should. The caller holds the store's lock, shared or alone.

    :raises StoreError: a list cannot be written.
    """
    for store in service.image_stores:
        store.images.update(partial(wanted, service, store))


def wanted(service: Service, store: ImageStore) -> list[ListedImage]:
    """What a store should list: of what was asked for, the images whose layers are all published there."""
    published = store.published().keys()
    asked = []
    for ref in service.images.refs():
        try:
            if ref.asked and verdict(parse_reference(ref.reference)).listing is Listing.LISTED:
                image = service.images.get(ref.digest)
                index = None if ref.listed == image.digest else service.images.index(image.digest, ref.listed)
                if published >= set(image.chain):
                    asked.append(Asked(ref, image, index, store.by_toc and published >= set(image.toc_chain)))
        except AlsError as error:
            log.warning("%s is not listed: %s", ref.reference, error)
    return listed_images(asked)
