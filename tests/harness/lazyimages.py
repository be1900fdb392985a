"""Images in a store that are made of lazy layers, without the daemon's own part of it."""

from __future__ import annotations

import json

from als.lazy.layer import LazyLayer
from als.lazy.link import Link
from als.model.digest import Digest
from als.model.manifest import Descriptor
from als.store.images import ImageRecord, Images
from tests.formats.lazylayers import LazyLayer as Sample
from tests.lazy.site import Site

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def image_of(*samples: Sample, note: str = "") -> ImageRecord:
    """An image of these layers.

    :param note: makes it another one.
    """
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [sample.diff_id for sample in samples]}, "author": note})
    settled = Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(config.encode()), len(config))
    layers = [_described(sample.descriptor) for sample in samples]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": _described(settled), "layers": layers}
    return ImageRecord.parse(MANIFEST, json.dumps(manifest).encode(), config.encode())


def keep(images: Images, reference: str, image: ImageRecord) -> None:
    """Have an image in a store under a reference."""
    images.put(image)
    images.name(reference, image.digest, image.digest)


class ServedLayers:
    """Stands where the daemon has its lazy layers: those of a site.

    :ivar hidden: keys of layers that are not served any more, because they are sealed.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self.hidden: set[str] = set()

    def layers(self) -> list[LazyLayer]:
        return [layer for layer in self._site.lazy.all() if layer.key not in self.hidden]

    def link(self, host: str) -> Link:
        return self._site.engine.link(host)

    def fill(self, key: str, *, on: bool = True) -> None:
        self._site.lazy.get(key).fill(on=on)

    def finish(self, key: str) -> None:
        self._site.lazy.get(key).fill()


def _described(blob: Descriptor) -> dict[str, object]:
    return {
        "mediaType": blob.media_type,
        "digest": str(blob.digest),
        "size": blob.size,
        "annotations": dict(blob.annotations),
    }
