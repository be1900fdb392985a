"""What both layouts of the additional image store have in common: the list, the links, and how layers come and go.

::

    overlay/<chain>             -> ../chains/<chain>, see :mod:`als.imagestore.appearance`
    overlay/<chain>/link        LINK
    overlay/<chain>/lower       l/PARENT-LINK:l/GRANDPARENT-LINK...; not for the lowest
    overlay/<chain>/empty, merged, work
    overlay/l/LINK              -> ../<chain>/diff
    overlay-layers/layers.json, layers.lock
    overlay-layers/<chain>.tar-split.gz     the layer's (als.store.tarsplit), a hardlink
    overlay-images/             see :mod:`als.imagestore.images`

The list is what counts: what it names is whole, for it is written last, after a sync; whatever else is found was left by a
crash and is made anew or removed. What a client mounts, and where it takes files' data from, is the layouts' own
(:mod:`als.imagestore.diffn`, :mod:`als.imagestore.composefs`).
"""

from __future__ import annotations

import base64
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from als.errors import AlsError, StoreDamaged
from als.imagestore.appearance import Appearance
from als.imagestore.images import ImageList
from als.imagestore.lock import StorageLock
from als.imagestore.records import PublishedLayer, format_entries, parse_entries
from als.imagestore.tarsplit import make_tar_split
from als.mount.table import MountEntry, MountReader, read_mounts
from als.store.atomic import sync_file_system
from als.store.closed import make_closed
from als.store.layers import Layers
from als.store.layout import TarSplitForm
from als.store.objects import link_or_copy
from als.store.refused import store_errors

LOCK_TIMEOUT = 60.0
_TAR_SPLIT = ".tar-split.gz"
_LINK_TARGET = "../{}/diff"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt to publish layers found when it began."""

    known: Collection[str]
    """Chain IDs that are listed."""
    mounts: Sequence[MountEntry]
    made: Mapping[str, Path]
    """Folders of layers by chain ID, to be put into place."""


class ImageStore(ABC):
    """One additional image store: a folder that storage.conf names."""

    layout: str
    """The layout's name in the settings."""
    by_toc: bool
    """Whether its clients identify layers by tables of contents where they can."""
    takes_lazy = False
    """Whether it can show layers before all of them is here."""
    shortest_link: int
    """Characters that LINK has at least; more where two would be equal."""

    tar_split_form: TarSplitForm
    """The tar-split files that its clients can read."""

    def __init__(self, root: Path, layers: Layers, tmp: Path, quarantine: Path) -> None:
        """
        :param tmp: where files can be made, on the same file system.
        :param quarantine: where files are put out of the way, likewise.
        """
        self.root = root
        self.layers = layers
        self._tmp = tmp
        self.overlay = root / "overlay"
        self.records = root / "overlay-layers"
        self.images = ImageList(root / "overlay-images")
        self._appearance = Appearance(root, quarantine)
        self._lock = StorageLock(self.records / "layers.lock")

    def create(self) -> None:
        """Make the empty tree if it is missing, and close it to users."""
        make_closed(self.root)
        for folder in (self.overlay / "l", self.records):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.create()
        self._appearance.create()
        self.images.create()

    @property
    def list_file(self) -> Path:
        """layers.json."""
        return self._appearance.list_file

    @abstractmethod
    def fits(self, layer_count: int) -> bool:
        """Whether the clients of this layout can mount an image of so many layers of ours."""

    @abstractmethod
    def is_ready(self, chain_id: str) -> bool:
        """Whether a client can mount a listed layer now."""

    @abstractmethod
    def forest(self, chain_id: str) -> Path | None:
        """The hardlinks that go when this chain goes; None where it has none of its own."""

    def is_uncovered(self, chain_id: str, mounts: Sequence[MountEntry]) -> bool:
        """Whether what serves a chain that is not complete has to be mounted again."""
        return False

    def ids_of(self, layers: Sequence[PublishedLayer]) -> set[str]:
        """The chain IDs by which clients find an image's layers here once they were published; other names of the same are not
        among them.

        :param layers: as for :meth:`publish`.
        """
        return {layer.chain_id for layer in takewhile(lambda layer: not layer.lazy, layers)}

    def borrowed(self, chain_id: str) -> str | None:
        """The layer (hex of its DiffID) of whose folder a chain that is mounted needs something; None: of none."""
        return None

    def lazy_key(self, chain_id: str) -> str | None:
        """The key of the lazy layer that a chain is served from; None where all of the chain is here."""
        return None

    def home(self, chain_id: str) -> str:
        """The chain in whose folder this one lies; as a rule it has one of its own."""
        return self._appearance.home(chain_id)

    def faults(self, layer: PublishedLayer, mounts: Sequence[MountEntry]) -> Iterator[str]:
        """What is wrong with a published layer in this layout, in words.

        :raises AlsError: or OSError: so much that it cannot be looked at.
        """
        if self._appearance.is_taken(layer.chain_id):
            yield "a client has made a layer of its own in its place"
            return
        folder = self.overlay / layer.chain_id
        if self.link_target((folder / "link").read_text()) != self.home(layer.chain_id):
            yield "its short name leads elsewhere"
        lower = folder / "lower"
        # What lies in another chain's folder has that one's layers below it, which need not be those of its own IDs.
        owned = self.home(layer.chain_id) == layer.chain_id
        if owned and (lower.read_text() if lower.exists() else "") != self._lower_of(layer):
            yield "it names other layers below it than those there are"
        if self.lazy_key(layer.chain_id) is None and not self.tar_split(layer.chain_id).is_file():
            yield "its tar-split file is missing"

    def published(self) -> dict[str, dict[str, object]]:
        """The entries of layers.json by chain ID."""
        path = self.list_file
        entries = parse_entries(path.read_bytes() if path.exists() else b"", str(path))
        return {entry["id"]: entry for entry in entries}

    def publish(
        self, layers: Sequence[PublishedLayer], mounts: MountReader = read_mounts, durable: Callable[[], None] = lambda: None
    ) -> None:
        """Make layers ready for clients and list them; what is there already is left alone, and only its blob is added if
        that was not known to hold it.

        :param layers: an image's, from the lowest on, by DiffIDs; where lazy layers cannot be shown, the lowest of them and
            what is above is left out.
        :param mounts: asked for the mounts that there are at that time.
        :param durable: called once all that is about to be listed is on the disk, and so is all that was written to the store
            before; if it raises, nothing is listed. Not called where there is nothing to be said that is not in the list.
        :raises KernelError: a layer's image cannot be mounted.
        """
        if not self.takes_lazy:
            layers = list(takewhile(lambda layer: not layer.lazy, layers))
        with (
            store_errors(self.overlay),
            self._staged(layers) as made,
            self._lock.held(LOCK_TIMEOUT) as announce,
        ):
            known = self.published()
            wanted = self._entries(layers)
            new = [layer for layer, _ in wanted if layer.chain_id not in known]
            old = dict(known)
            for layer in (layer for layer, _ in wanted if layer.chain_id in known):
                old[layer.chain_id] = layer.restated(known[layer.chain_id])
            try:
                self._clear(wanted, known)
                self._prepare_all(layers, Attempt(known, mounts(), made))
                if not new and old == known:
                    return
                for layer in new:
                    self._appearance.announce(layer.chain_id)
                sync_file_system(self.overlay)
                durable()
                homes = {layer.chain_id: home.chain_id for layer, home in wanted if layer in new}
                self._write([*old.values(), *(layer.to_json() for layer in new)], homes)
            except (OSError, AlsError):
                # A full disk, as a rule: give back what was taken, but for what has appeared: clients may know of that.
                appeared = self.published().keys() - known.keys()
                for layer in reversed(new):
                    if layer.chain_id not in appeared:
                        self._remove(layer.chain_id)
                if appeared:
                    announce()
                raise
            announce()

    def _entries(self, layers: Sequence[PublishedLayer]) -> list[tuple[PublishedLayer, PublishedLayer]]:
        """What is listed for some layers: each entry with the layer in whose folder it lies."""
        return [(layer, layer) for layer in layers]

    @contextmanager
    def _staged(self, layers: Sequence[PublishedLayer]) -> Iterator[dict[str, Path]]:
        """Make what takes long before the list is locked and clients are kept waiting.

        :returns: folders made for layers by chain ID; what is left of them afterwards is removed.
        """
        for layer in layers:
            make_tar_split(self.layers, layer.diff_id, self.tar_split_form, self._tmp)
        yield {}

    def _clear(self, wanted: Sequence[tuple[PublishedLayer, PublishedLayer]], known: Collection[str]) -> None:
        """Remove what an attempt that was cut short, perhaps by the power, has left: nothing says that it is whole."""
        found = self._appearance.found()
        for layer, _ in wanted:
            if layer.chain_id not in known and layer.chain_id in found:
                self._remove(layer.chain_id)

    def _prepare_all(self, layers: Sequence[PublishedLayer], attempt: Attempt) -> None:
        for index, layer in enumerate(layers):
            if layer.parent != (layers[index - 1].chain_id if index else ""):
                raise StoreDamaged("the layer below it is missing", where=layer.chain_id, hint="pull the image again")
        for index in range(len(layers)):
            self._prepare(layers[: index + 1], attempt)

    @abstractmethod
    def _prepare(self, layers: Sequence[PublishedLayer], attempt: Attempt) -> None:
        """Make all of the last of some layers that a client needs beside its entry in the list, as far as it is missing."""

    def unpublish(self, chain_ids: Collection[str]) -> None:
        """Take layers out of the list, then all else away that there is of them."""
        self.unlist(chain_ids)
        with store_errors(self.overlay), self._lock.held(LOCK_TIMEOUT):
            known = self.published()
            for chain_id in chain_ids:
                # Somebody may have published it again.
                if chain_id not in known:
                    self._remove(chain_id)

    def unlist(self, chain_ids: Collection[str]) -> list[dict[str, object]]:
        """Take layers out of the list and out of sight, and return their entries. Nothing else of them is touched: who has
        mounted them keeps them."""
        with store_errors(self.records), self._lock.held(LOCK_TIMEOUT) as announce:
            known = self.published()
            gone = {chain_id: known[chain_id] for chain_id in known if chain_id in chain_ids}
            if gone:
                left = format_entries([entry for chain_id, entry in known.items() if chain_id not in gone])
                self._appearance.withdraw(left, {chain_id: self.home(chain_id) for chain_id in gone})
                announce()
            return list(gone.values())

    def restate(self, entries: Mapping[str, Mapping[str, object]]) -> None:
        """Say something else of listed layers, by chain ID. What clients mount of them stays as it is."""
        with store_errors(self.records), self._lock.held(LOCK_TIMEOUT) as announce:
            known = self.published()
            self._write([entries.get(chain_id, entry) for chain_id, entry in known.items()])
            announce()

    def relist(self, entries: Sequence[Mapping[str, object]]) -> None:
        """Put back what :meth:`unlist` took out, if nothing of it was removed since."""
        with store_errors(self.records), self._lock.held(LOCK_TIMEOUT) as announce:
            known = self.published()
            back = {str(entry["id"]): entry for entry in entries if entry["id"] not in known}
            if back:
                self._write([*known.values(), *back.values()], {chain_id: self.home(chain_id) for chain_id in back})
                announce()

    def unlisted(self) -> list[str]:
        """Chain IDs of which something is here although they are not in the list: what a crash has left."""
        known = self.published()
        found = self._appearance.found()
        found |= {name.removesuffix(_TAR_SPLIT) for name in os.listdir(self.records) if name.endswith(_TAR_SPLIT)}
        links = (path.readlink().parts for path in (self.overlay / "l").iterdir())
        found |= {parts[1] for parts in links if len(parts) == 3}
        return sorted(found - known.keys())

    def folder(self, chain_id: str) -> Path:
        """What a chain's layer consists of."""
        return self._appearance.folder(self.home(chain_id))

    def tar_split(self, chain_id: str) -> Path:
        """Where clients look for a chain's tar-split file."""
        return self.records / f"{chain_id}{_TAR_SPLIT}"

    def _place_tar_split(self, layer: PublishedLayer) -> None:
        """Give a chain the tar-split file of its layer, if it has none."""
        path = self.tar_split(layer.chain_id)
        if not path.exists():
            if path.is_symlink():
                # It leads nowhere: als once made the files when they were read.
                path.unlink()
            link_or_copy(self.layers.tar_split(layer.diff_id, self.tar_split_form), path)

    def link_target(self, link: str) -> str | None:
        """The chain ID that a name in ``l/`` leads to, or None."""
        try:
            return (self.overlay / "l" / link).readlink().parts[1]
        except (OSError, IndexError):
            return None

    def _write(self, entries: Sequence[Mapping[str, object]], appearing: Mapping[str, str] | None = None) -> None:
        self._appearance.change(format_entries(entries), appearing or {})

    def _name(self, layer: PublishedLayer) -> None:
        """Make the folder of a layer, its ``link`` and its ``lower``."""
        folder = self.folder(layer.chain_id)
        for path in (folder, folder / "empty", folder / "merged", folder / "work"):
            path.mkdir(mode=0o700, exist_ok=True)
        lower = self._lower_of(layer)
        if lower:
            write_once(folder / "lower", lower)
        write_once(folder / "link", self._link(layer.chain_id))

    def _link(self, chain_id: str) -> str:
        """The chain's name in ``l/``: made on first use, the same for ever."""
        target = _LINK_TARGET.format(chain_id)
        digits = base64.b32encode(hashlib.sha256(chain_id.encode()).digest()).decode().rstrip("=")
        for length in range(self.shortest_link, len(digits) + 1):
            path = self.overlay / "l" / digits[:length]
            if not os.path.lexists(path):
                path.symlink_to(target)
            if path.readlink() == Path(target):
                return digits[:length]
        raise StoreDamaged("no name is left for a layer", where=str(self.overlay / "l"))

    def _lower_of(self, layer: PublishedLayer) -> str:
        """The content of ``lower`` for a layer; "": it has none.

        :raises StoreDamaged: the layer below is not published.
        """
        if not layer.parent:
            return ""
        folder = self.folder(layer.parent)
        try:
            above = "l/" + (folder / "link").read_text()
        except FileNotFoundError as error:
            hint = "pull the image again"
            raise StoreDamaged("the layer below is not published", where=layer.parent, hint=hint) from error
        below = folder / "lower"
        return f"{above}:{below.read_text()}" if below.exists() else above

    def _remove(self, chain_id: str) -> None:
        """Take away all there is of a chain; a part of it is no obstacle."""
        self._appearance.remove(chain_id)
        if os.path.lexists(self.tar_split(chain_id)):
            self.tar_split(chain_id).unlink()
        # By what it leads to: the file that has its name may have been lost already.
        for path in (self.overlay / "l").iterdir():
            if path.readlink() == Path(_LINK_TARGET.format(chain_id)):
                path.unlink()


def write_once(path: Path, text: str) -> None:
    """Write a small file unless it is there as it should be. Durable with the next sync of the file system."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
