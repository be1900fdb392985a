"""The additional image store for podman 5 and later and CRI-O, ROOT/image-store, whose layers are composefs images.

::

    overlay/<chain>/composefs-data/composefs.blob   the layer's EROFS image, a hardlink of layers/<diffID>/layer.erofs
    overlay/<chain>/diff/.als/<sha256>              a forest of the chain's own: hardlinks to the objects
    and what :mod:`als.imagestore.tree` makes in either layout

containers/storage (``drivers/overlay``) mounts composefs.blob itself wherever it finds one, and names ``diff`` as an overlay
data-only lower. So nothing is mounted by us here, nothing leads out of the folder, and no daemon is needed, also after a
reboot. ``diff`` has to be a real directory: save and push look for the EROFS image beside it, by its path.

Layers that have a table of contents are listed twice: by chain IDs made of DiffIDs, and by those that containers/image gives to
layers which it identified by TOC, as it does with all that an Additional Layer Store serves. From version 1.58 on
containers/storage never writes such layers down; found here, they need not be. Both IDs share a folder::

    overlay/<TOC chain>         -> ../chains/<chain>
    overlay-layers/<TOC chain>.tar-split.gz         a hardlink of the chain's

A layer that is served before all of it is here (:mod:`als.lazy`) is listed by the ID made of its TOC alone: the manifest
commits to the TOC, while the DiffID is what an image says of itself until the last byte has come. It has a folder of its own::

    chains/<TOC chain>/lazy     the key of the lazy layer; gone when the layer is sealed
    chains/<TOC chain>/native   all its files are in `diff` itself: nothing is mounted over it
    chains/<TOC chain>/diff     over it is mounted an overlay of what is here of the layer and, below that, what serves the rest

When its files are all here (:meth:`ComposefsStore.uncover`), or the layer is sealed (:meth:`ComposefsStore.settle`), ``diff``
gets its own forest below that mount, which then is taken away: whoever mounts the layer from now on has nothing between him
and the files. What lies above a lazy layer in an image has only that kind of ID, and a folder of its own, too.

All lower directories are named by mounts that the client makes in its own run root, so an image may be as tall as overlay
allows. LINK is as long as containers/storage makes it itself: it looks for links in all its image stores, and in two of ours
one short name could stand for two layers.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file, read_root_inode
from als.imagestore.records import PublishedLayer, by_toc
from als.imagestore.tarsplit import make_tar_split
from als.imagestore.tree import LOCK_TIMEOUT, Attempt, ImageStore
from als.model import chain
from als.model.digest import Digest
from als.mount.lazy import SOURCE as LAZY_SOURCE
from als.mount.lazy import mount_lazy, unmount_lazy
from als.mount.table import MountEntry, find_mount
from als.mount.unmounting import cloned_mount
from als.native.verity import measure_path
from als.store.atomic import read_json, sync_file_system, write_json
from als.store.layers import Layers
from als.store.layout import Layout, TarSplitForm
from als.store.lazyfolders import note_chain
from als.store.objects import add_to_forest, forest_names, link_or_copy, replace_in_forest
from als.store.owners import owners_of
from als.store.refused import store_errors

_DATA = "composefs-data"
_BLOB = "composefs.blob"
_LAZY = "lazy"
_NATIVE = "native"


class ComposefsStore(ImageStore):
    """The tree below ROOT/image-store."""

    layout = "composefs"
    by_toc = True
    takes_lazy = True
    shortest_link = 26
    tar_split_form = TarSplitForm.IMAGE

    def __init__(self, layout: Layout, layers: Layers) -> None:
        super().__init__(layout.image_store, layers, layout.tmp, layout.quarantine)
        self._root = layout.root
        self._lazy = layout.lazy
        self._lazy_files = layout.lazy_files

    def fits(self, layer_count: int) -> bool:
        """podman 5 and later mount what overlay can."""
        return True

    def blob(self, chain_id: str) -> Path:
        """The EROFS image that clients mount."""
        return self.folder(chain_id) / _DATA / _BLOB

    def is_ready(self, chain_id: str) -> bool:
        """Whether the layer's EROFS image is there to be mounted."""
        return self.blob(chain_id).exists()

    def forest(self, chain_id: str) -> Path | None:
        """``diff``; a chain that lies in another's folder has none, and of a lazy one it is the lazy layer's that count."""
        own = self.home(chain_id) == chain_id and self.lazy_key(chain_id) is None
        return self.folder(chain_id) / "diff" if own else None

    def faults(self, layer: PublishedLayer, mounts: Sequence[MountEntry]) -> Iterator[str]:
        """What is wrong with a published layer, in words."""
        yield from super().faults(layer, mounts)
        key = self.lazy_key(layer.chain_id)
        blob, diff = self.blob(layer.chain_id), self.folder(layer.chain_id) / "diff"
        if key is not None:
            if not _is_same(blob, self._lazy_image(key)):
                yield "its EROFS image is not that of its lazy layer"
            return
        if _is_same(blob, self.layers.image(layer.diff_id)):
            needed = forest_names(self.layers.forest(layer.diff_id))
        elif layer.chain_id == chain.chain_id(layer.parent, layer.diff_id) or self.home(layer.chain_id) != layer.chain_id:
            yield "its EROFS image is another layer's"
            return
        else:
            # It was lazy, and shows what its table of contents tells. That this is the layer was seen when it was complete,
            # but where somebody had pulled that whole in the meantime the two images need not be the same.
            needed = _needed(blob)
        if needed - forest_names(diff):
            yield "its own forest lacks files"

    def ids_of(self, layers: Sequence[PublishedLayer]) -> set[str]:
        """As listed by :meth:`publish`: whatever lies above a lazy layer has but one ID."""
        return super().ids_of(layers) | {layer.chain_id for layer in by_toc(layers)[_count_whole(layers) :]}

    def is_uncovered(self, chain_id: str, mounts: Sequence[MountEntry]) -> bool:
        """Whether what serves a lazy chain is missing although there is a daemon that could."""
        native = (self.folder(chain_id) / _NATIVE).exists()
        if native or self.lazy_key(chain_id) is None or find_mount(self._lazy_files.parent, mounts) is None:
            return False
        cover = find_mount(self.folder(chain_id) / "diff", mounts)
        return cover is None or cover.source != LAZY_SOURCE

    def _entries(self, layers: Sequence[PublishedLayer]) -> list[tuple[PublishedLayer, PublishedLayer]]:
        owned = [layer if layer.lazy else self._owned(layer) for layer in layers]
        whole = _count_whole(owned)
        pairs = list(zip(by_toc(owned), owned, strict=True))
        found = [(layer, layer) for layer in owned[:whole]]
        found += [(toc, layer) for toc, layer in pairs[:whole] if toc.chain_id != layer.chain_id]
        return [*found, *((toc, toc) for toc, _ in pairs[whole:])]

    @contextmanager
    def _staged(self, layers: Sequence[PublishedLayer]) -> Iterator[dict[str, Path]]:
        known = self.published()
        made: dict[str, Path] = {}
        try:
            for layer in layers:
                if not layer.lazy:
                    make_tar_split(self.layers, layer.diff_id, self.tar_split_form, self._tmp)
                    self._note_owners(layer.diff_id)
            for layer, home in self._entries(layers):
                if layer is home and layer.chain_id not in known:
                    made[layer.chain_id] = self._tmp / f"chain-{secrets.token_hex(6)}"
                    self._make(made[layer.chain_id], layer)
            yield made
        finally:
            for path in made.values():
                if path.exists():
                    shutil.rmtree(path)

    def _make(self, folder: Path, layer: PublishedLayer) -> None:
        for path in (folder, folder / _DATA, folder / "diff"):
            path.mkdir(mode=0o755)
        image = self._lazy_image(layer.lazy) if layer.lazy else self.layers.image(layer.diff_id)
        link_or_copy(image, folder / _DATA / _BLOB)
        if layer.lazy:
            (folder / _LAZY).write_text(layer.lazy)
        else:
            add_to_forest(self.layers.forest(layer.diff_id), folder / "diff")
        # A container's own root directory gets the attributes of this one.
        root = read_root_inode(image, LAYER)
        os.chown(folder / "diff", root.uid, root.gid)
        (folder / "diff").chmod(root.mode)

    def _note_owners(self, diff_id: Digest) -> None:
        owners = self.layers.owners(diff_id)
        if not owners.exists():
            write_json(owners, owners_of(node for _, node in read_image_file(self.layers.image(diff_id), LAYER).walk()))

    def _owned(self, layer: PublishedLayer) -> PublishedLayer:
        value = read_json(self.layers.owners(layer.diff_id))
        return replace(layer, uids=tuple(value["uids"]), gids=tuple(value["gids"]))

    def _prepare(self, layers: Sequence[PublishedLayer], attempt: Attempt) -> None:
        layer, toc = layers[-1], by_toc(layers)[-1]
        whole = _count_whole(layers)
        home = layer if whole == len(layers) else toc
        if home.chain_id not in attempt.known:
            attempt.made[home.chain_id].rename(self.folder(home.chain_id))
            # What is below the lowest lazy layer has not appeared by its other ID yet, unless it was lazy itself: then it is
            # by that one that it goes on being held.
            appears = len(layers) == whole + 1 and home.parent not in attempt.known
            self._name(replace(home, parent=layer.parent) if appears else home)
            if home.lazy:
                self._cover(home.chain_id, home.lazy)
        for each in (home, toc):
            if each.chain_id in attempt.known and self.lazy_key(each.chain_id) is None:
                self._renew(each)
            if each.chain_id not in attempt.known and not each.lazy:
                self._place_tar_split(each)

    def _remove(self, chain_id: str) -> None:
        folder = self._appearance.folder(chain_id)
        if folder.exists():
            unmount_lazy(folder / "diff")
        super()._remove(chain_id)

    # -- lazy layers

    def lazy_chains(self) -> dict[str, str]:
        """The listed layers that are not complete: keys of lazy layers by chain ID."""
        found = {}
        for chain_id in self.published():
            key = self.lazy_key(chain_id)
            if key is not None:
                found[chain_id] = key
        return found

    def lazy_key(self, chain_id: str) -> str | None:
        """The key of the lazy layer that stands for a chain; None where the chain is complete, or has not appeared: what an
        attempt has left that the power cut short may be anything."""
        former = self._appearance.former_home(chain_id)
        folder = self._appearance.folder(former) if former else self.overlay / chain_id
        try:
            return (folder / _LAZY).read_text()
        except FileNotFoundError:
            return None

    def cover(self, chain_id: str) -> None:
        """Mount what serves a lazy chain, in place of what a daemon before this one may have left there.

        :raises KernelError: it cannot be mounted.
        """
        with store_errors(self.overlay), self._lock.held(LOCK_TIMEOUT):
            key = self.lazy_key(chain_id)
            if key is not None and not (self.folder(chain_id) / _NATIVE).exists():
                self._cover(chain_id, key)

    def uncover(self, chain_id: str) -> None:
        """Let whoever mounts a lazy chain from now on find all its files, which are here, in its own forest.

        Containers that run keep the mount that they have.
        """
        with store_errors(self.overlay), self._lock.held(LOCK_TIMEOUT):
            key = self.lazy_key(chain_id)
            if key is None or (self.folder(chain_id) / _NATIVE).exists():
                return
            self._fill(chain_id, self._lazy / key / "diff1")
            sync_file_system(self.overlay)
            (self.folder(chain_id) / _NATIVE).touch()
            unmount_lazy(self.folder(chain_id) / "diff")

    def settle(self, layers: Sequence[PublishedLayer]) -> None:
        """Let the last of some layers be complete under its TOC's ID as well: it was lazy, and now the store has it.

        Whoever mounts it from now on finds its files in its own forest. Containers that run keep the mount that they have.

        The store may have it of somebody else, who pulled it whole while hardly a file of the lazy layer was here: the daemon
        after one that was killed right when it showed a lazy layer may be asked for the image before it can be lazy.
        """
        layer = by_toc(layers)[-1]
        key = self.lazy_key(layer.chain_id)
        if key is None:
            return
        arrived = self._lazy / key / "diff1"
        self._note_owners(layer.diff_id)
        layer = self._owned(layer)
        make_tar_split(self.layers, layer.diff_id, self.tar_split_form, self._tmp)
        lacking = _needed(self.blob(layer.chain_id)) - forest_names(arrived)
        with store_errors(self.overlay), self._lock.held(LOCK_TIMEOUT) as announce:
            known = self.published()
            if self.lazy_key(layer.chain_id) != key or layer.chain_id not in known:
                return
            folder = self.folder(layer.chain_id)
            self._fill(layer.chain_id, arrived)
            if lacking:
                self._fill(layer.chain_id, self.layers.forest(layer.diff_id))
            self._renew(layer)
            self._place_tar_split(layer)
            sync_file_system(self.overlay)
            known[layer.chain_id] = {**layer.to_json(), "created": known[layer.chain_id]["created"]}
            self._write(list(known.values()))
            announce()
            unmount_lazy(folder / "diff")
            if lacking - forest_names(folder / "diff"):
                # The two call the same files by different names. What was mounted there until now knew the lazy one's alone.
                replace_in_forest(self.layers.image(layer.diff_id), self.blob(layer.chain_id))
            (folder / _LAZY).unlink()
            (folder / _NATIVE).unlink(missing_ok=True)

    def _renew(self, layer: PublishedLayer) -> None:
        """Let clients mount the sealed image of a layer that was published before it was sealed. Containers that run keep what
        they have."""
        blob, image = self.blob(layer.chain_id), self.layers.image(layer.diff_id)
        digest = self.layers.get(layer.diff_id).verity
        if not digest or blob.samefile(image):
            return
        found = measure_path(blob)
        if found is None or found.hex() != digest:
            # One that was lazy may call its files by other names.
            self._fill(layer.chain_id, self.layers.forest(layer.diff_id))
            replace_in_forest(image, blob)

    def _fill(self, chain_id: str, forest: Path) -> None:
        """Give a chain's own forest all that another one has."""
        # Seen from a copy of the mount that all lies on, what covers the folder is not there.
        with cloned_mount(self._root) as root:
            add_to_forest(
                root / forest.relative_to(self._root), root / (self.folder(chain_id) / "diff").relative_to(self._root)
            )

    def _cover(self, chain_id: str, key: str) -> None:
        folder = self._lazy / key
        note_chain(folder, chain_id)
        mount_lazy(folder / "diff1", self._lazy_files / key, self.folder(chain_id) / "diff")

    def _lazy_image(self, key: str) -> Path:
        return self._lazy / key / "layer.erofs"


def _needed(image: Path) -> set[str]:
    """The names in a forest of all files that an EROFS image shows."""
    return {name.hex() for name in read_image_file(image, LAYER).contents()}


def _is_same(one: Path, other: Path) -> bool:
    """Whether two files have the same content, as a rule because they are one."""
    # Where a file has as many links as it can have, the next one is a copy.
    return one.samefile(other) or one.read_bytes() == other.read_bytes()


def _count_whole(layers: Sequence[PublishedLayer]) -> int:
    """How many layers from the lowest on are complete."""
    return next((index for index, layer in enumerate(layers) if layer.lazy), len(layers))
