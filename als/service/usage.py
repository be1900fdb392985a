"""How much space images take, and how much they would take if nothing were shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from als.model.digest import Digest
from als.service import Service
from als.service.removal import survey
from als.store.liveness import Holder
from als.store.lock import sharing


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
    """Of all objects, each counted once."""
    metadata: int
    """Of EROFS images and recipes."""
    unshared: int
    """What the images would take together if each kept its files for itself."""

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
    metadata = sum(service.layers.metadata_bytes(diff_id) for diff_id in objects)
    distinct = {diff_ids: usage.size for (_, diff_ids), usage in zip(images.items(), usages, strict=True)}
    return Usage(usages, sum(everything.values()), metadata, sum(distinct.values()))


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
