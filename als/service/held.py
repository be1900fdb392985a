"""Which blobs the store need not fetch: those of layers that it has, by the images that name them."""

from __future__ import annotations

import logging
import threading

from als.errors import AlsError
from als.model.digest import Digest
from als.store.images import Images
from als.store.layers import Layers

log = logging.getLogger(__name__)


class HeldBlobs:
    """Thread-safe. Images never change, so each is read once: with hundreds of them that takes longer than a round trip."""

    def __init__(self, images: Images, layers: Layers) -> None:
        self._images = images
        self._layers = layers
        self._lock = threading.Lock()
        self._known: dict[Digest, tuple[tuple[Digest, Digest], ...]] = {}
        """Blob and DiffID of each layer, by image."""

    def blobs(self) -> set[Digest]:
        """Blobs of which some image in the store has the layer."""
        here = set(self._layers.ids())
        with self._lock:
            known = {}
            for digest in self._images.digests():
                try:
                    known[digest] = self._known.get(digest) or self._read(digest)
                except AlsError as error:
                    # It is being removed, or `als fsck` has something to say about it.
                    log.info("%s", error)
            self._known = known
            return {blob for layers in known.values() for blob, diff_id in layers if diff_id in here}

    def _read(self, digest: Digest) -> tuple[tuple[Digest, Digest], ...]:
        image = self._images.get(digest)
        blobs = (layer.digest for layer in image.manifest.layers)
        return tuple(zip(blobs, image.config.diff_ids, strict=True))
