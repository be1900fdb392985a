"""Who is concerned by an object that is damaged: files, layers, images, and containers that use them now."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.errors import AlsError, StoreDamaged
from als.model.digest import Digest
from als.model.forest import FOREST
from als.model.tree import Inode
from als.service.core import Service
from als.service.removal import survey
from als.store.liveness import Liveness


@dataclass(frozen=True, slots=True)
class Affected:
    """What one object stands for."""

    files: tuple[tuple[Digest, str], ...] = ()
    """Layers by DiffID, and the object's names in them."""
    images: tuple[str, ...] = ()
    """References of the images that have one of these layers; the digest of an image that has no reference."""
    containers: tuple[str, ...] = ()
    """Containers of any client whose images have such a layer, running or not, with their graph roots."""

    def __str__(self) -> str:
        parts = [f"{name} of layer {diff_id}" for diff_id, name in self.files]
        parts += [f"image {name}" for name in self.images]
        return ", ".join([*parts, *self.containers])


def forests(service: Service) -> Iterator[Path]:
    """The folder of every complete forest: each layer's, and those that chains of the image stores have of their own."""
    for diff_id in service.layers.ids():
        yield service.layers.forest(diff_id) / FOREST
    for store in service.image_stores:
        try:
            chains = store.published()
        except StoreDamaged:
            continue  # Reported by who checks the list; its chains are made anew with it.
        for chain_id in chains:
            forest = store.forest(chain_id)
            if forest is not None and (forest / FOREST).is_dir():
                yield forest / FOREST


def affected(service: Service, objects: Collection[bytes]) -> dict[bytes, Affected]:
    """Who is concerned, by the objects' sha256. The caller holds the store's lock, shared or alone.

    What cannot be read of the store is left out: somebody else reports it.
    """
    files: dict[bytes, list[tuple[Digest, str]]] = {sha256: [] for sha256 in objects}
    for diff_id in service.layers.ids() if files else ():
        for sha256, name in _files_of(service, diff_id, files):
            files[sha256].append((diff_id, name))
    if not any(files.values()):
        return {sha256: Affected() for sha256 in files}
    images = _images(service)
    live = _live(service)
    found = {}
    for sha256, places in files.items():
        diff_ids = {diff_id for diff_id, _ in places}
        names = sorted({name for diff_id in diff_ids for name in images.get(diff_id, ())})
        holders = {holder for diff_id in diff_ids for holder in live.layers.get(diff_id, ()) if holder.kind == "container"}
        found[sha256] = Affected(tuple(places), tuple(names), tuple(map(str, sorted(holders))))
    return found


def _files_of(service: Service, diff_id: Digest, objects: Collection[bytes]) -> Iterator[tuple[bytes, str]]:
    try:
        tree = read_image_file(service.layers.image(diff_id), LAYER)
    except (AlsError, OSError):
        return
    for path, node in tree.walk():
        if isinstance(node, Inode) and node.content is not None and node.content.name in objects:
            yield node.content.name, "/" + path.decode("utf-8", "backslashreplace")


def _images(service: Service) -> dict[Digest, set[str]]:
    """References by the DiffIDs of their layers."""
    named: dict[Digest, set[str]] = {}
    for ref in service.images.refs():
        named.setdefault(ref.digest, set()).add(ref.reference)
    found: dict[Digest, set[str]] = {}
    for image in service.images.all():
        for diff_id in image.config.diff_ids:
            found.setdefault(diff_id, set()).update(named.get(image.digest, {str(image.digest)}))
    return found


def _live(service: Service) -> Liveness:
    try:
        return survey(service)[0]
    except AlsError:
        return Liveness()
