"""A store with lazy layers that are published, without a daemon: its keeper's part is done by the test.

Where FUSE would be mounted a plain directory is.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from als.imagestore.records import PublishedLayer
from als.lazy.layer import LazyLayer
from als.model.digest import Digest
from als.model.forest import FOREST
from als.model.manifest import Descriptor, toc_digest
from als.service import Service
from als.service.fsck import Problem
from als.service.repair import fsck
from als.store.images import ImageRecord
from tests.formats.lazylayers import LazyLayer as Sample
from tests.harness.lazyimages import ServedLayers, image_of, keep
from tests.harness.system import mounts_below
from tests.lazy.faultyregistry import FaultyRegistry
from tests.lazy.site import TIMEOUT, Site, read


class Keeper(ServedLayers):
    """Stands where the daemon has its lazy layers."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.site = site

    def key_of(self, descriptor: Descriptor, diff_id: Digest) -> str:
        """As :meth:`als.service.lazily.Lazies.key_of`."""
        for layer in self.site.lazy.all():
            if (layer.record.diff_id, layer.record.descriptor.digest) == (diff_id, descriptor.digest):
                return layer.key
        return ""


class LazyStore:
    """Pulls lazily, and completes."""

    def __init__(self, service: Service, keeper: Keeper, registry: FaultyRegistry) -> None:
        self.service = service
        self.site = keeper.site
        self.registry = registry
        self.face = service.layout.root.with_name("face")
        self.face.mkdir()
        subprocess.run(["mount", "--bind", self.face, service.layout.mount_point], check=True)

    def make(self, sample: Sample, name: str) -> LazyLayer:
        """A lazy layer that nobody lists yet."""
        layer = self.site.layer(self.registry, sample, f"{name}:1")
        (self.service.layout.lazy_files / layer.key / FOREST).mkdir(parents=True, exist_ok=True)
        return layer

    def pull(self, name: str, *samples: Sample) -> tuple[ImageRecord, list[LazyLayer]]:
        """An image of which nothing is here but what its tables of contents tell, under ``r.io/NAME:1``."""
        layers = [self.make(sample, name) for sample in samples]
        image = image_of(*samples, note=name)
        keep(self.service.images, f"r.io/{name}:1", image)
        self.service.publish(image)
        return image, layers

    def read(self, layer: LazyLayer, name: bytes, length: int = 1 << 30) -> bytes:
        """The beginning of a file, and what is fetched with it."""
        data = read(layer, name, 0, length)
        self.site.wait_idle(layer)
        return data

    def seal(self, layer: LazyLayer) -> None:
        """All of a layer comes, and it is what was promised."""
        layer.fill()
        layer.content.result(TIMEOUT)
        self.site.sealer.seal(layer)
        toc = toc_digest(layer.record.descriptor)
        assert toc is not None
        self.service.layers.add_toc(layer.record.diff_id, toc)

    def settle(self, image: ImageRecord, layers: list[LazyLayer]) -> None:
        """All layers of an image are complete from now on."""
        for layer in layers:
            self.seal(layer)
        whole = [self.layer_of(image, index) for index in range(len(layers))]
        for index in range(len(whole)):
            self.service.composefs.settle(whole[: index + 1])
        for layer in layers:
            self.site.lazy.sealed(layer)
        self.service.publish(image)

    def layer_of(self, image: ImageRecord, index: int) -> PublishedLayer:
        return self.service.layer_of(image, index)

    def mounts(self) -> list[Path]:
        """What is mounted within the store."""
        layout = self.service.layout
        points = (mount.point for mount in mounts_below(layout.root))
        return [point for point in points if point not in (layout.root, layout.mount_point)]

    def things(self) -> Mapping[str, list[str]]:
        """What the store has of images."""
        layout = self.service.layout
        folders = {"lazy": layout.lazy, "layers": layout.layers, "images": layout.images, "tmp": layout.tmp}
        found = {name: sorted(path.name for path in folder.iterdir()) for name, folder in folders.items()}
        found["objects"] = sorted(path.name for path in layout.objects.glob("*/*"))
        found["listed"] = sorted(self.service.composefs.published())
        found["chains"] = sorted(path.name for path in (layout.image_store / "chains").iterdir())
        return {name: names for name, names in found.items() if names}


def folder_of(service: Service, layer: LazyLayer) -> Path:
    return service.layout.lazy / layer.key


def published_problems(service: Service) -> list[Problem]:
    """What fsck has to say of the image stores alone."""
    return [problem for problem in fsck(service).found if problem.kind == "image store"]
