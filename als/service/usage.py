"""How much space images take, and how much they would take if nothing were shared."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from als.lazy.partial import SEALED
from als.model.digest import Digest
from als.model.forest import FOREST
from als.service import Service
from als.service.removal import survey
from als.store.liveness import Holder
from als.store.lock import sharing
from als.store.objects import is_staging

_BLOCK = 512
"""What st_blocks counts in (stat(2))."""


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """One image's space, in bytes of file content."""

    reference: str
    size: int
    """Everything its layers hold, each file as often as a layer has it."""
    unique: int
    """What no other image has."""
    shared: int
    """What other images have as well."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The store's space in bytes."""

    images: tuple[ImageUsage, ...]
    objects: int
    """Of all objects in complete layers, each counted once."""
    metadata: int
    """Of EROFS images and recipes."""
    unshared: int
    """What the images would take together if each kept its files for itself."""
    lazy: int = 0
    """Of files that are here as one and that no complete layer has, but a lazy one."""
    partial: int = 0
    """On disk, of files of lazy layers that are not here as one, and of what is kept beside files."""

    @property
    def saved(self) -> int:
        return max(0, self.unshared - self.objects)


def measure(service: Service) -> Usage:
    """Look at every image and layer; takes a stat for each file of each layer."""
    objects = {record.diff_id: service.layers.objects(record.diff_id) for record in service.layers.all()}
    images = {ref.reference: service.images.get(ref.digest).config.diff_ids for ref in service.images.refs()}
    owners: dict[bytes, set[str]] = {}
    for reference, diff_ids in images.items():
        for diff_id in diff_ids:
            for name in objects.get(diff_id, {}):
                owners.setdefault(name, set()).add(reference)
    # Two names of one image are one image: what they have in common is unique to it.
    same = {reference: {other for other, ids in images.items() if ids == diff_ids} for reference, diff_ids in images.items()}
    usages = tuple(
        _image_usage(reference, diff_ids, objects, owners, same[reference]) for reference, diff_ids in images.items()
    )
    everything = {name: size for held in objects.values() for name, size in held.items()}
    lazy = [measure_lazy(folder) for folder in _lazy_folders(service)]
    metadata = sum(service.layers.metadata_bytes(diff_id) for diff_id in objects) + sum(each.metadata for each in lazy)
    waiting = {name: size for each in lazy for name, size in each.files.items() if name not in everything}
    distinct = {diff_ids: usage.size for (_, diff_ids), usage in zip(images.items(), usages, strict=True)}
    return Usage(
        usages,
        sum(everything.values()),
        metadata,
        sum(distinct.values()),
        sum(waiting.values()),
        sum(each.partial for each in lazy),
    )


@dataclass(frozen=True, slots=True)
class LazyUsage:
    """The space of one lazy layer's folder, in bytes."""

    files: Mapping[bytes, int]
    """Size of each file that is here as one, by its name in the forest."""
    partial: int
    """On disk, of files that are not, and of what is kept beside files."""
    metadata: int
    """Of its EROFS image and index, unless the complete layer has them as well."""


def measure_lazy(folder: Path) -> LazyUsage:
    """Look at the folder of a lazy layer. The daemon may be filling it, or removing it."""
    forest = _entries(folder / "diff1" / FOREST)
    files = {bytes.fromhex(path.name): found.st_size for path, found in forest if not is_staging(path.name)}
    parts = sum(_BLOCK * found.st_blocks for _, found in _entries(folder / "parts"))
    beside = {path.name: found for path, found in _entries(folder)}
    rest = _BLOCK * beside["rest"].st_blocks if "rest" in beside else 0
    # A sealed layer has its image in ROOT/layers.
    names = ("index",) if SEALED in beside else ("index", "layer.erofs")
    return LazyUsage(files, parts + rest, sum(beside[name].st_size for name in names if name in beside))


def _lazy_folders(service: Service) -> Iterator[Path]:
    return (path for path in service.layout.lazy.iterdir() if not path.name.startswith("."))


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What a folder holds that may change or go meanwhile."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            yield folder / name, os.lstat(folder / name)


@dataclass(frozen=True, slots=True)
class LayerUsage:
    """One layer's space in bytes of file content, and who keeps it."""

    diff_id: Digest
    size: int
    unique: int
    """What no other layer has."""
    metadata: int
    """Of its EROFS image and recipe."""
    holders: tuple[Holder, ...]
    """Empty: `als gc` will remove it."""

    @property
    def shared(self) -> int:
        return self.size - self.unique


def measure_layers(service: Service) -> tuple[LayerUsage, ...]:
    """Look at every layer and ask every client."""
    with sharing(service.layout.lock):
        objects = {record.diff_id: service.layers.objects(record.diff_id) for record in service.layers.all()}
        live, _ = survey(service)
        counts = Counter(name for held in objects.values() for name in held)
        return tuple(
            LayerUsage(
                diff_id,
                sum(held.values()),
                sum(size for name, size in held.items() if counts[name] == 1),
                service.layers.metadata_bytes(diff_id),
                tuple(sorted(live.layers.get(diff_id, ()))),
            )
            for diff_id, held in objects.items()
        )


def _image_usage(
    reference: str,
    diff_ids: Sequence[Digest],
    objects: Mapping[Digest, Mapping[bytes, int]],
    owners: Mapping[bytes, set[str]],
    same: set[str],
) -> ImageUsage:
    held = [objects.get(diff_id, {}) for diff_id in diff_ids]
    merged = {name: size for layer in held for name, size in layer.items()}
    unique = sum(size for name, size in merged.items() if owners[name] <= same)
    return ImageUsage(reference, sum(sum(layer.values()) for layer in held), unique, sum(merged.values()) - unique)
