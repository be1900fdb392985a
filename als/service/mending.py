"""Damaged objects are replaced: by a sound copy where the store has one, else from the registry of an image that holds them.

The new object is another inode, so each forest that had the damaged one is given the new one, name by name and without a moment
in which a name stands for nothing. A container that runs and opens the file after that reads the sound one, unless the kernel
still has what it looked up before. The damaged file itself is kept in ROOT/quarantine.

Nothing is believed: what comes from the registry is hashed as in any pull, and goes into the store by the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from als.errors import AlsError, NotFound
from als.model.digest import Digest
from als.model.forest import FOREST
from als.model.reference import parse_reference
from als.native.verity import measure_path
from als.service.affected import Affected, forests
from als.service.core import Service
from als.store import lazyfolders
from als.store.atomic import sync_file_system
from als.store.images import ImageRecord
from als.store.objects import link_or_copy, object_damage, replace_in_forest
from als.store.quarantine import quarantine
from als.store.refused import store_errors
from als.store.sealing import seal_file

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mended:
    """What became of damaged objects, by sha256."""

    replaced: frozenset[bytes]
    failed: Mapping[bytes, str]
    """Why others could not be."""


def mend(service: Service, damaged: Mapping[bytes, Affected]) -> Mended:
    """Replace damaged objects wherever they are. The caller shares the store's lock, and does not hold it alone.

    :raises StoreError: the store cannot be written.
    """
    failed: dict[bytes, str] = {}
    with store_errors(service.layout.root):
        lazy = (service.layout.lazy / key / "diff1" / FOREST for key in lazyfolders.keys(service.layout))
        folders = [*forests(service), *lazy]
        missing = {sha256 for sha256 in damaged if not _from_copies(service, sha256, folders)}
        failed = _from_registries(service, {sha256: damaged[sha256] for sha256 in missing})
        replaced = frozenset(damaged.keys() - failed.keys())
        for sha256 in replaced:
            _spread(service, sha256, folders, damaged[sha256])
        sync_file_system(service.layout.root)
    return Mended(replaced, failed)


def _from_copies(service: Service, sha256: bytes, folders: Iterable[Path]) -> bool:
    """Let the object's own name stand for a sound file, if there is one anywhere."""
    named = service.layout.object(sha256)
    if named.exists():
        if not object_damage(named, sha256):
            return True
        # The next pull would link it without reading it.
        quarantine(service.layout.quarantine, named, "object")
    for folder in folders:
        path = folder / sha256.hex()
        if path.exists() and not object_damage(path, sha256):
            link_or_copy(path, named)
            return True
    return False


def _from_registries(service: Service, missing: Mapping[bytes, Affected]) -> dict[bytes, str]:
    """Have the objects made again from layers that hold them; why, of those for which that could not be done."""
    failed: dict[bytes, str] = {}
    tried: dict[Digest, str] = {}
    for sha256, concerned in missing.items():
        for diff_id in dict.fromkeys(diff_id for diff_id, _ in concerned.files):
            if diff_id not in tried and not service.layout.object(sha256).exists():
                tried[diff_id] = _fetch_layer(service, diff_id)
        if not service.layout.object(sha256).exists():
            reasons = [why for diff_id, _ in concerned.files if (why := tried.get(diff_id))]
            failed[sha256] = reasons[0] if reasons else "no layer holds it"
    return failed


def _fetch_layer(service: Service, diff_id: Digest) -> str:
    """Make a layer's objects again; why that failed, "" if it did not."""
    why = "no image that names the layer has a reference"
    for image, reference in _sources(service, diff_id):
        try:
            service.puller.fetch_again(parse_reference(reference), image, image.config.diff_ids.index(diff_id))
            return ""
        except AlsError as error:
            why = str(error)
            log.warning("layer %s is not to be had again from %s: %s", diff_id, reference, error)
    return why


def _sources(service: Service, diff_id: Digest) -> list[tuple[ImageRecord, str]]:
    found = []
    for ref in service.images.refs():
        try:
            image = service.images.get(ref.digest)
        except NotFound:
            continue
        if diff_id in image.config.diff_ids:
            found.append((image, ref.reference))
    return found


def _spread(service: Service, sha256: bytes, folders: Collection[Path], concerned: Affected) -> None:
    """Let every forest that has, or should have, the object have the sound one."""
    named = service.layout.object(sha256)
    diff_ids = {diff_id for diff_id, _ in concerned.files}
    if any(service.layers.get(diff_id).verity for diff_id in diff_ids):
        seal_file(named)
    sealed = measure_path(named) is not None
    inode = named.stat().st_ino
    needing = {service.layers.forest(diff_id) / FOREST for diff_id in diff_ids}
    for folder in folders:
        path = folder / sha256.hex()
        there = path.exists()
        other = there and path.stat().st_ino != inode
        if (
            (other and object_damage(path, sha256))
            or (other and sealed and measure_path(path) is None)
            or (not there and folder in needing)
        ):
            replace_in_forest(named, path)
