"""Whether the store is as als left it: structure always, content with `deep`.

Only what is wrong is reported, not what is merely useless: garbage is `als gc`'s business. Each problem names a remedy, which
:mod:`als.service.repair` knows how to apply.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.errors import AlsError, NotFound, StoreDamaged
from als.imagestore.check import faults
from als.imagestore.records import PublishedLayer, is_lazy
from als.imagestore.tree import ImageStore
from als.model.digest import Digest
from als.model.forest import FOREST
from als.mount.table import MountEntry, read_mounts
from als.native.verity import measure_path
from als.service import listing
from als.service.affected import forests
from als.service.core import Service
from als.service.lazycheck import folder_faults, lazy_faults
from als.store import lazyfolders
from als.store.images import ImageRecord, RefRecord
from als.store.layers import LayerRecord
from als.store.objects import file_sha256, forest_names, object_damage, object_files
from als.store.recipe import ObjectPart, read_recipe, tar_stream


class Remedy(enum.Enum):
    """What `als fsck --repair` does about a problem."""

    RELINK = "link the object again, or quarantine the layer where it is lost"
    NAME = "name the object again"
    QUARANTINE_LAYER = "quarantine the layer; pulling the image again heals it"
    QUARANTINE_OBJECT = "quarantine the object"
    QUARANTINE_FILE = "quarantine the file; pulling the image again heals it"
    FORGET = "remove the reference; pull it again"
    REPUBLISH = "publish the layer again"
    REBUILD = "make the list anew from the images that references name; what else clients use must be pulled again"
    PUBLISH = "publish its layers"
    LIST = "list the images anew"
    RESTATE = "no longer list the layer by that digest; pulling the image again verifies it"
    UNPUBLISH = "stop publishing the layer; pulling the image again heals it"
    COVER = "mount again what serves the layer"
    DISCARD = "stop serving the lazy layer; pulling the image again heals it"
    PULL = "pull the image again"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it should be."""

    kind: str
    """layer, lazy layer, object, image, reference, use, clients or image store."""
    name: str
    """A DiffID, key, digest, reference or chain ID."""
    what: str
    remedy: Remedy
    sha256: bytes = b""
    """The object concerned."""
    size: int | None = None
    """What it should have, if that is known."""
    path: Path | None = None
    """The file concerned."""
    layout: str = ""
    """The image store concerned."""


def check(service: Service, *, deep: bool = False) -> list[Problem]:
    """Look at everything. The caller holds the store's lock, shared or alone.

    :param deep: read every object and rebuild every layer's stream as well.
    """
    checker = Checker(service, deep)
    layers = [*checker.layers(), *checker.lazy(), *checker.objects()]
    return [*layers, *checker.images(), *checker.references(), *checker.published()]


class Checker:
    """Looks at one store. The caller holds its lock, shared or alone."""

    def __init__(self, service: Service, deep: bool) -> None:
        self._service = service
        self._deep = deep
        self._damages: dict[tuple[int, bytes], str] = {}
        """By inode number and name: each is read once, whatever the number of its names."""
        self._listed: dict[str, dict[str, dict[str, object]]] = {}
        """By layout."""
        self._list_errors: dict[str, str] = {}
        for store in service.image_stores:
            try:
                self._listed[store.layout] = store.published()
            except StoreDamaged as error:
                self._listed[store.layout] = {}
                self._list_errors[store.layout] = said(error)

    def layers(self) -> Iterator[Problem]:
        for diff_id in self._service.layers.ids():
            yield from self.layer(diff_id)

    def layer(self, diff_id: Digest) -> Iterator[Problem]:
        """One layer, file by file."""
        try:
            yield from self._layer(diff_id)
        except (AlsError, OSError) as error:
            yield Problem("layer", str(diff_id), said(error), Remedy.QUARANTINE_LAYER)

    def lazy(self) -> Iterator[Problem]:
        layout = self._service.layout
        for key in lazyfolders.keys(layout):
            try:
                for what in folder_faults(layout, key, file_sha256 if self._deep else None):
                    yield Problem("lazy layer", key, what, Remedy.DISCARD)
            except (AlsError, OSError) as error:
                yield Problem("lazy layer", key, said(error), Remedy.DISCARD)

    def _layer(self, diff_id: Digest) -> Iterator[Problem]:
        layers = self._service.layers
        record = layers.get(diff_id)
        if record.diff_id != diff_id:
            raise StoreDamaged(f"its record is that of {record.diff_id}")
        held_to_digest(self._service, layers.image(diff_id), record)
        needed = {name: size for name, (_, size) in read_image_file(layers.image(diff_id), LAYER).contents().items()}
        length, ends = _recipe_needs(layers.recipe(diff_id))
        if length != record.diff_size:
            raise StoreDamaged(f"its recipe gives {length} bytes instead of {record.diff_size}")
        forest = layers.forest(diff_id) / FOREST
        sound = True
        for name in sorted(needed.keys() | ends.keys()):
            path = forest / name.hex()
            problem = self._object(path, name, needed.get(name), ends.get(name, 0), bool(record.verity))
            if problem:
                sound = False
                yield Problem("layer", str(diff_id), problem, Remedy.RELINK, name, needed.get(name), path)
            elif not self._service.layout.object(name).exists():
                what = "an object has lost its name, so that others cannot share it"
                yield Problem("object", name.hex(), what, Remedy.NAME, name, path=path)
        if self._deep and sound:
            self._check_stream(diff_id, forest)

    def _object(self, path: Path, name: bytes, size: int | None, end: int, sealed: bool) -> str:
        """What is wrong with one file of a forest; "" if nothing is."""
        try:
            status = path.lstat()
        except FileNotFoundError:
            return f"{name.hex()} is missing from its forest"
        if (size is not None and status.st_size != size) or status.st_size < end:
            return f"{name.hex()} has {status.st_size} bytes instead of {end if size is None else size}"
        damage = self._damage(path, name) if self._deep else ""
        if self._deep and sealed and not damage and measure_path(path) is None:
            damage = "is not sealed, as its layer is"
        return f"{name.hex()} {damage}" if damage else ""

    def _check_stream(self, diff_id: Digest, forest: Path) -> None:
        hasher = diff_id.hasher()
        stream = tar_stream(
            self._service.layers.recipe(diff_id), lambda name: os.open(forest / name.hex(), os.O_RDONLY | os.O_CLOEXEC)
        )
        for piece in stream:
            hasher.update(piece)
        if hasher.hexdigest() != diff_id.hex:
            raise StoreDamaged("its recipe gives another stream")

    def _damage(self, path: Path, name: bytes) -> str:
        key = path.stat().st_ino, name
        if key not in self._damages:
            self._damages[key] = object_damage(path, name)
        return self._damages[key]

    def objects(self) -> Iterator[Problem]:
        """Those that layers hold were looked at with these; a name without a layer can still be found by a pull."""
        if not self._deep:
            return
        for folder in sorted(self._service.layout.objects.iterdir()):
            for path in object_files(folder):
                name = folder.name + path.name
                sha256 = bytes.fromhex(name)
                if damage := self._damage(path, sha256):
                    yield Problem("object", name, f"it {damage}", Remedy.QUARANTINE_OBJECT, sha256, path=path)
        yield from self._linked()
        yield from self._unlinked()

    def _linked(self) -> Iterator[Problem]:
        """Files of forests that are not the objects that were looked at: links that somebody replaced."""
        for folder in forests(self._service):
            if folder.is_relative_to(self._service.layout.layers):
                continue
            for path in object_files(folder):
                sha256 = bytes.fromhex(path.name)
                if (path.stat().st_ino, sha256) in self._damages:
                    continue
                damage = self._damage(path, sha256)
                if not damage and measure_path(path) is None and self._is_sealed(sha256):
                    damage = "is not sealed, as the object is,"
                if damage:
                    yield Problem("object", path.name, f"it {damage} in {folder}", Remedy.QUARANTINE_FILE, sha256, path=path)

    def _is_sealed(self, sha256: bytes) -> bool:
        path = self._service.layout.object(sha256)
        return path.exists() and measure_path(path) is not None

    def _unlinked(self) -> Iterator[Problem]:
        """What forests of chains lack, file by file, so that it can be said whom that concerns."""
        for store in self._service.image_stores:
            for chain_id, entry in self._listed[store.layout].items():
                forest = store.forest(chain_id)
                if forest is None or is_lazy(entry):
                    continue
                # An entry that is damaged is reported with the list.
                with contextlib.suppress(AlsError):
                    held = self._service.layers.forest(PublishedLayer.from_json(entry).diff_id)
                    for name in sorted(forest_names(held) - forest_names(forest)):
                        what, sha256 = f"its own forest lacks {name}", bytes.fromhex(name)
                        yield Problem("image store", chain_id, what, Remedy.REPUBLISH, sha256, layout=store.layout)

    def images(self) -> Iterator[Problem]:
        for digest in self._service.images.digests():
            path = self._service.layout.images / digest.hex
            try:
                image = self._service.images.get(digest)
                if Digest.of(image.config_data) != image.manifest.config.digest:
                    raise StoreDamaged("the config has changed")
                for index in self._service.images.indexes(digest):
                    self._service.images.index(digest, index)
            except (AlsError, OSError) as error:
                yield Problem("image", str(digest), said(error), Remedy.QUARANTINE_FILE, path=path)

    def references(self) -> Iterator[Problem]:
        yield from self.unreadable_records()
        path = self._service.layout.clients
        try:
            self._service.clients.seen()
        except (AlsError, OSError) as error:
            yield Problem("clients", path.name, said(error), Remedy.QUARANTINE_FILE, path=path)
        for path in _records(self._service.layout.refs):
            # What cannot be read, or has been dropped since the folder was listed, is none of these.
            with contextlib.suppress(AlsError, OSError):
                yield from self._reference(self._service.images.read(path))

    def unreadable_records(self) -> Iterator[Problem]:
        """References and clients' counts of which nobody can say what they hold."""
        layout = self._service.layout
        readers: list[tuple[str, Path, Callable[[Path], object]]] = [
            *(("reference", path, self._service.images.read) for path in _records(layout.refs)),
            *(("use", path, self._service.uses.read) for path in _records(layout.uses)),
        ]
        for kind, path, read in readers:
            try:
                read(path)
            except FileNotFoundError:
                continue  # Dropped since the folders were listed.
            except (AlsError, OSError) as error:
                yield Problem(kind, path.name, said(error), Remedy.QUARANTINE_FILE, path=path)

    def _reference(self, record: RefRecord) -> Iterator[Problem]:
        try:
            image = self._service.images.get(record.digest)
        except NotFound:
            yield Problem("reference", record.reference, f"its image {record.digest} is missing", Remedy.FORGET)
            return
        except AlsError:
            return  # Said of the image already.
        there, missing = self._layers_of(image)
        if missing:
            what = f"{len(missing)} of its layers are missing: {', '.join(map(str, missing))}"
            yield Problem("reference", record.reference, what, Remedy.PULL)
            return
        for store in self._service.publishing:
            if store.fits(len(image.chain)) and not store.ids_of(there) <= self._listed[store.layout].keys():
                what = f"not all of its layers are published in {store.root.name}"
                yield Problem("reference", record.reference, what, Remedy.PUBLISH, layout=store.layout)

    def _layers_of(self, image: ImageRecord) -> tuple[list[PublishedLayer], list[Digest]]:
        """An image's layers, complete or lazy, and those that are missing."""
        there, missing = [], []
        for index, diff_id in enumerate(image.config.diff_ids):
            try:
                there.append(self._service.layer_of(image, index))
            except AlsError:
                missing.append(diff_id)
        return there, missing

    def published(self) -> Iterator[Problem]:
        mounts = read_mounts()
        yield from self.unreadable_lists()
        for store in self._service.image_stores:
            for chain_id, entry in self._listed[store.layout].items():
                for what, remedy in self._published(store, entry, mounts):
                    yield Problem("image store", chain_id, what, remedy, layout=store.layout)
            yield from self._images_listed(store) if store.layout not in self._list_errors else ()

    def unreadable_lists(self) -> Iterator[Problem]:
        """Image stores of which nobody can say what they list."""
        for layout, error in self._list_errors.items():
            yield Problem("image store", "layers.json", error, Remedy.REBUILD, layout=layout)

    def _images_listed(self, store: ImageStore) -> Iterator[Problem]:
        try:
            wanted = listing.wanted(self._service, store)
        except AlsError:
            return  # A reference cannot be read, which is said of it already.
        for what in store.images.faults(wanted):
            yield Problem("image store", "images.json", what, Remedy.LIST, layout=store.layout)

    def _published(
        self, store: ImageStore, entry: Mapping[str, object], mounts: Sequence[MountEntry]
    ) -> Iterator[tuple[str, Remedy]]:
        """What is wrong with an entry of a list, and what can be done about it."""
        try:
            layer = PublishedLayer.from_json(entry)
            record = None if is_lazy(entry) else self._service.layers.get(layer.diff_id)
            yield from self._served(store, layer, mounts, lazily=record is None)
        except (AlsError, OSError) as error:
            yield said(error), Remedy.UNPUBLISH
            return
        listed = self._listed[store.layout]
        for claim in () if record is None else unproven(layer, record):
            yield claim, Remedy.RESTATE if store.home(layer.chain_id) == layer.chain_id else Remedy.REPUBLISH
        for fault in faults(store, layer, listed, mounts):
            yield fault, Remedy.REPUBLISH if not layer.parent or layer.parent in listed else Remedy.UNPUBLISH

    def _served(
        self, store: ImageStore, layer: PublishedLayer, mounts: Sequence[MountEntry], *, lazily: bool
    ) -> Iterator[tuple[str, Remedy]]:
        """What is wrong with what a layer is served from while not all of it is here.

        :raises AlsError: or OSError: it cannot be served.
        """
        key = store.lazy_key(layer.chain_id)
        if key is None:
            if lazily:
                raise StoreDamaged("it is not complete, and nobody knows from where to serve it")
            return
        for fault in lazy_faults(self._service.layout, layer, key):
            yield fault, Remedy.UNPUBLISH
        if store.is_uncovered(layer.chain_id, mounts):
            yield "what serves its files is not mounted", Remedy.COVER


def held_to_digest(service: Service, image: Path, record: LayerRecord) -> None:
    """See that what is, or is to be, mounted for a layer is the EROFS image that was sealed; reads nothing of it.

    :raises StoreDamaged: it is another one.
    :raises OSError: it cannot be opened.
    """
    verify = service.verity.verifier(record.verity, str(image)) if record.verity else None
    if verify is not None:
        with image.open("rb") as file:
            verify(file.fileno())


def unproven(layer: PublishedLayer, record: LayerRecord) -> Iterator[str]:
    """By what a layer is listed although nobody has seen that it is that: clients would have it run in any image that names
    the same digest. Lists from before blobs were verified are full of it."""
    if layer.blob is not None and not record.is_held_by(layer.blob):
        yield f"it is listed by the blob {layer.blob}, which was not verified to hold it"
    if layer.toc is not None and layer.toc not in record.tocs:
        yield f"it is listed by the table of contents {layer.toc}, which was not verified to tell of it"


def _recipe_needs(recipe: Path) -> tuple[int, dict[bytes, int]]:
    """The length of the stream, and how many bytes each object must have at least."""
    length = 0
    ends: dict[bytes, int] = {}
    for part in read_recipe(recipe):
        if isinstance(part, ObjectPart):
            length += part.length
            ends[part.sha256] = max(ends.get(part.sha256, 0), part.offset + part.length)
        else:
            length += len(part)
    return length, ends


def _records(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.json"))


def said(error: AlsError | OSError) -> str:
    """An error in the words of a problem."""
    if isinstance(error, AlsError):
        return error.what
    return f"{error.filename}: {error.strerror}"
