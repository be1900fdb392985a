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
from als.model.manifest import toc_digest
from als.model.policy import Listing, ListingVerdict
from als.model.reference import Reference, parse_reference
from als.store.images import ImageRecord

if TYPE_CHECKING:
    from als.service.core import Service

log = logging.getLogger(__name__)


def verdict(reference: Reference, home: Path) -> ListingVerdict:
    """What the policy of the user with that home directory says of an image.

    :raises ConfigError: the policy cannot be read.
    """
    return may_list(reference, home)


def update(service: Service) -> None:
    """Have every image store list what it should. The caller holds the store's lock, shared or alone.

    :raises StoreError: a list cannot be written.
    """
    for store in service.image_stores:
        store.images.update(partial(wanted, service, store))


def wanted(service: Service, store: ImageStore) -> list[ListedImage]:
    """What a store should list: of what was asked for, the images whose layers are all published there."""
    published, home = store.published().keys(), service.environment.home
    asked = []
    for ref in service.images.refs():
        try:
            if ref.asked and verdict(parse_reference(ref.reference), home).listing is Listing.LISTED:
                image = service.images.get(ref.digest)
                index = None if ref.listed == image.digest else service.images.index(image.digest, ref.listed)
                if published >= set(image.chain):
                    by_toc = store.by_toc and published >= set(image.toc_chain) and _verified(service, image)
                    asked.append(Asked(ref, image, index, by_toc))
        except AlsError as error:
            log.warning("%s is not listed: %s", ref.reference, error)
    return listed_images(asked)


def _verified(service: Service, image: ImageRecord) -> bool:
    """Whether all tables of contents that the image names tell of its own layers; another image's may be published by one of
    these names."""
    layers = zip(image.manifest.layers, image.config.diff_ids, strict=True)
    return all(toc_digest(layer) in (None, *service.layers.get(diff_id).tocs) for layer, diff_id in layers)
