"""Tables of contents that several layers claim.

A client of the layer store identifies a layer by the digest of its table of contents alone (:mod:`als.imagestore.composefs`),
whatever image asked for it. That digest is an annotation in the manifest: whoever makes an image can write there what another
image has, and would have the other's containers run on his layer. As long as a layer is read as a stream of tar, and nobody
compares the stream with the table, a digest that is claimed for two contents is believed for neither: such layers are listed
by their DiffIDs, and left to the client's own pull where it asks by TOC.

Every lookup by TOC comes with a reference whose manifest als reads. So of two images with one TOC, both are known here before
the second one's layers are announced.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from als.model.digest import Digest
from als.model.manifest import toc_digest
from als.store.images import ImageRecord

if TYPE_CHECKING:
    from als.service.core import Service

log = logging.getLogger(__name__)


def contested(service: Service, image: ImageRecord) -> frozenset[Digest]:
    """Those of an image's tables of contents that are claimed for another content as well, there or in any image of the store.

    :raises StoreDamaged: an image or list cannot be read, so that nobody knows.
    """
    own = _claims(image)
    if not own:
        return frozenset()
    claims = set(own)
    for other in service.images.all():
        claims |= _claims(other)
    for store in service.image_stores:
        for entry in store.published().values():
            if "toc-digest" in entry:
                claims.add((Digest.parse(str(entry["toc-digest"])), Digest.parse(str(entry.get("diff-digest")))))
    tocs = [toc for toc, _ in claims]
    return frozenset(toc for toc, _ in own if tocs.count(toc) > 1)


def withdraw(service: Service, tocs: frozenset[Digest]) -> None:
    """Take out of the lists what is found by one of these tables of contents, and all that lies on it."""
    texts = {str(toc) for toc in tocs}
    for store in service.image_stores:
        entries = store.published()
        by_toc = {chain_id: entry for chain_id, entry in entries.items() if store.home(chain_id) != chain_id}
        gone = {chain_id for chain_id, entry in by_toc.items() if entry.get("toc-digest") in texts}
        size = -1
        while size != len(gone):
            size = len(gone)
            gone |= {chain_id for chain_id, entry in by_toc.items() if entry.get("parent") in gone}
        if gone:
            log.warning("%d layers are no longer found by their tables of contents: other contents claim them", len(gone))
            store.unpublish(gone)


def _claims(image: ImageRecord) -> set[tuple[Digest, Digest]]:
    layers = zip(image.manifest.layers, image.config.diff_ids, strict=True)
    return {(toc, diff_id) for layer, diff_id in layers if (toc := toc_digest(layer)) is not None}
