"""Applying the remedies of `als fsck`.

Objects that are damaged or missing are replaced first (:mod:`als.service.mending`), from the registry if need be. What is
damaged beyond that help is moved to ROOT/quarantine and taken out of the image store's list; the next pull of the image then
finds the layer missing and makes it again. Files that are sound are never moved there: a quarantined layer leaves the objects
it shares to others. Containers that run on a layer keep what they have mounted.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from als.errors import AlsError, StoreDamaged
from als.imagestore.records import PublishedLayer, by_diff_id, is_lazy
from als.imagestore.tree import ImageStore
from als.model.digest import Digest
from als.model.forest import FOREST, forest_path
from als.mount.unmounting import unmount_all, unmount_below
from als.service import listing
from als.service.affected import Affected, affected
from als.service.core import Service
from als.service.fsck import Problem, Remedy, check
from als.service.mending import mend
from als.store import lazyfolders
from als.store.lock import excluding, sharing
from als.store.objects import link_or_copy, object_damage, object_files, replace_in_forest
from als.store.quarantine import quarantine
from als.store.refused import store_errors


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and what is still wrong."""

    found: tuple[Problem, ...]
    remaining: tuple[Problem, ...]
    affected: Mapping[bytes, Affected] = field(default_factory=dict)
    """Whom the damaged objects concern, by sha256."""


def fsck(service: Service, *, repair: bool = False, deep: bool = False, wait: float = 60.0) -> Report:
    """Check the store, and repair it if asked.

    :param wait: seconds to wait for pulls that are under way, before repairs.
    :raises LockTimeout: they took longer.
    """
    with sharing(service.layout.lock):
        found = tuple(check(service, deep=deep))
        damaged = affected(service, {problem.sha256 for problem in found if problem.sha256})
        if not repair or not found:
            return Report(found, found, damaged)
        objects = {problem.sha256 for problem in found if problem.sha256 and problem.remedy is not Remedy.NAME}
        # Pulls go on meanwhile: what has to be fetched may take its time.
        mend(service, {sha256: damaged[sha256] for sha256 in objects})
    with excluding(service.layout.lock, timeout=wait):
        left = tuple(check(service, deep=deep))
        if not left:
            return Report(found, (), damaged)
        repair_all(service, left)
        return Report(found, tuple(check(service, deep=deep)), damaged)


def repair_all(service: Service, problems: Collection[Problem]) -> None:
    """Apply the remedies of these problems. The caller holds the store's lock alone.

    :raises AlsError: something could not be repaired.
    """
    with store_errors(service.layout.root):
        _Repair(service, problems).run()


class _Repair:
    def __init__(self, service: Service, problems: Collection[Problem]) -> None:
        self._service = service
        self._problems = problems
        self._changed: set[Digest] = set()
        """Layers of which something was replaced or lost; what was published of them has to be made again."""
        self._lost: set[str] = set()
        """Keys of lazy layers that are served no more."""

    def run(self) -> None:
        for problem in self._with(Remedy.RELINK):
            self._relink(problem)
        for problem in self._with(Remedy.QUARANTINE_LAYER):
            self._quarantine_layer(Digest("sha256", problem.name.removeprefix("sha256:")))
        for problem in self._with(Remedy.QUARANTINE_OBJECT, Remedy.QUARANTINE_FILE):
            if problem.path is not None and problem.path.exists():
                self._quarantine(problem.path, problem.kind)
        for problem in self._with(Remedy.NAME):
            self._name(problem)
        for problem in self._with(Remedy.FORGET):
            self._service.images.forget(problem.name)
        for problem in self._with(Remedy.DISCARD):
            self._discard(problem.name)
        self._publish_again()

    def _with(self, *remedies: Remedy) -> Iterator[Problem]:
        return (problem for problem in self._problems if problem.remedy in remedies)

    def _relink(self, problem: Problem) -> None:
        diff_id = Digest("sha256", problem.name.removeprefix("sha256:"))
        self._changed.add(diff_id)
        if problem.path is None or not problem.path.parent.parent.exists():
            return
        source = self._sound_copy(problem)
        named = self._service.layout.object(problem.sha256)
        if named.exists() and not self._is_sound(named, problem):
            # The next pull would link it without reading it.
            self._quarantine(named, "object")
        if source is None:
            self._quarantine_layer(diff_id)
            return
        problem.path.parent.mkdir(mode=0o755, exist_ok=True)
        if problem.path.exists():
            self._quarantine(problem.path, "file")
        replace_in_forest(source, problem.path)
        if not named.exists():
            link_or_copy(source, named)

    def _sound_copy(self, problem: Problem) -> Path | None:
        """Another file with the content that is missing."""
        layers = self._service.layers
        candidates = [self._service.layout.object(problem.sha256)]
        candidates += [layers.forest(diff_id) / forest_path(problem.sha256) for diff_id in layers.ids()]
        return next((path for path in candidates if self._is_sound(path, problem)), None)

    @staticmethod
    def _is_sound(path: Path, problem: Problem) -> bool:
        return path.is_file() and not object_damage(path, problem.sha256)

    def _name(self, problem: Problem) -> None:
        named = self._service.layout.object(problem.sha256)
        if problem.path is not None and problem.path.exists() and not named.exists():
            link_or_copy(problem.path, named)

    def _quarantine_layer(self, diff_id: Digest) -> None:
        folder = self._service.layout.layer(diff_id)
        self._changed.add(diff_id)
        if not folder.exists():
            return
        unmount_all(self._service.layers.mount_point(diff_id))
        place = self._quarantine(folder, "layer")
        forest = place / "diff1" / FOREST
        for path in object_files(forest) if forest.is_dir() else ():
            if not object_damage(path, bytes.fromhex(path.name)):
                path.unlink()

    def _discard(self, key: str) -> None:
        """Take a lazy layer out of service. A daemon that has it open notices, as after gc."""
        folder = self._service.layout.lazy / key
        self._lost.add(key)
        if folder.exists():
            unmount_below(lazyfolders.mount_point(folder), lazily=True)
            place = self._quarantine(folder, "lazy")
            for forest in lazyfolders.forests_of(place):
                if forest.is_dir():
                    # Whatever is whole has another name in objects/, and what is not was only begun.
                    shutil.rmtree(forest)

    def _quarantine(self, path: Path, kind: str) -> Path:
        return quarantine(self._service.layout.quarantine, path, kind)

    def _publish_again(self) -> None:
        for store in self._service.image_stores:
            self._publish_again_in(store)
        for problem in self._with(Remedy.COVER):
            self._service.composefs.cover(problem.name)
        for ref in self._service.images.refs():
            with contextlib.suppress(AlsError):
                self._service.publish(self._service.images.get(ref.digest))
        listing.update(self._service)

    def _publish_again_in(self, store: ImageStore) -> None:
        """Take away whatever is published of layers that changed and all that lies on top, and publish anew what can be."""
        problems = [problem for problem in self._problems if problem.layout == store.layout]
        if any(problem.remedy is Remedy.REBUILD for problem in problems):
            self._quarantine(store.list_file.resolve(), "list")
            store.create()
            store.unpublish(store.unlisted())
        bad = {problem.name for problem in problems if problem.remedy in (Remedy.REPUBLISH, Remedy.UNPUBLISH)}
        entries = store.published()
        changed = {str(diff_id) for diff_id in self._changed}
        bad |= {chain_id for chain_id, entry in entries.items() if str(entry.get("diff-digest")) in changed}
        lazy = {chain_id: key for chain_id in entries if (key := store.lazy_key(chain_id)) is not None}
        bad |= {chain_id for chain_id, key in lazy.items() if key in self._lost}
        unservable = {problem.name for problem in problems if problem.remedy is Remedy.UNPUBLISH}
        lazy = {chain_id: key for chain_id, key in lazy.items() if key not in self._lost and chain_id not in unservable}
        size = -1
        while size != len(bad):
            size = len(bad)
            bad |= {chain_id for chain_id, entry in entries.items() if entry.get("parent", "") in bad}
            bad |= {chain_id for chain_id in entries if store.home(chain_id) in bad}
        store.unpublish(bad)
        for chain_id in bad & entries.keys():
            # Checked again afterwards: what cannot be published is reported then.
            with contextlib.suppress(AlsError):
                store.publish(by_diff_id([self._proven(layer) for layer in _up_to(chain_id, entries, lazy)]))
        restate = {problem.name for problem in problems if problem.remedy is Remedy.RESTATE} - bad
        if restate:
            found = {chain_id: PublishedLayer.from_json(entries[chain_id]) for chain_id in restate}
            store.restate({chain_id: self._proven(layer).to_json() for chain_id, layer in found.items()})

    def _proven(self, layer: PublishedLayer) -> PublishedLayer:
        """A layer with those names only that it was seen to have.

        :raises NotFound: it is not in the store any more.
        """
        if layer.lazy:
            return layer
        record = self._service.layers.get(layer.diff_id)
        return replace(
            layer,
            blob=layer.blob if layer.blob is not None and record.is_held_by(layer.blob) else None,
            toc=layer.toc if layer.toc in record.tocs else None,
        )


def _up_to(chain_id: str, entries: Mapping[str, Mapping[str, object]], lazy: Mapping[str, str]) -> list[PublishedLayer]:
    """A chain's layers from the lowest on.

    :param lazy: by chain ID, the keys of the lazy layers that such chains can be served from.
    :raises StoreDamaged: one of them is not listed, or can be served from nowhere.
    """
    found: list[PublishedLayer] = []
    while chain_id:
        if chain_id not in entries or len(found) > len(entries):
            raise StoreDamaged("a layer below it is not listed", where=chain_id)
        entry = entries[chain_id]
        if is_lazy(entry) and chain_id not in lazy:
            raise StoreDamaged("it is not complete, and cannot be served", where=chain_id)
        layer = PublishedLayer.from_json(entry)
        found.append(replace(layer, lazy=lazy[chain_id]) if is_lazy(entry) else layer)
        chain_id = found[-1].parent
    return found[::-1]
