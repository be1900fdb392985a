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
from als.imagestore.tree import Attempt, ImageStore
from als.model.digest import Digest
from als.mount.table import MountEntry
from als.store.atomic import read_json, write_json
from als.store.layers import Layers
from als.store.layout import Layout, TarSplitForm
from als.store.objects import add_to_forest, forest_names, link_or_copy
from als.store.owners import owners_of

_DATA = "composefs-data"
_BLOB = "composefs.blob"


class ComposefsStore(ImageStore):
    """The tree below ROOT/image-store."""

    layout = "composefs"
    by_toc = True
    shortest_link = 26
    tar_split_form = TarSplitForm.IMAGE

    def __init__(self, layout: Layout, layers: Layers) -> None:
        super().__init__(layout.image_store, layers, layout.tmp)

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
        """``diff``; a chain that lies in another's folder has none."""
        return self.folder(chain_id) / "diff" if self.home(chain_id) == chain_id else None

    def faults(self, layer: PublishedLayer, mounts: Sequence[MountEntry]) -> Iterator[str]:
        """What is wrong with a published layer, in words."""
        yield from super().faults(layer, mounts)
        blob, image = self.blob(layer.chain_id), self.layers.image(layer.diff_id)
        # Where the image has as many links as it can have, the blob is a copy.
        if not blob.samefile(image) and blob.read_bytes() != image.read_bytes():
            yield "its EROFS image is another layer's"
        diff = self.folder(layer.chain_id) / "diff"
        if forest_names(self.layers.forest(layer.diff_id)) - forest_names(diff):
            yield "its own forest lacks files"

    def _entries(self, layers: Sequence[PublishedLayer]) -> list[tuple[PublishedLayer, PublishedLayer]]:
        owned = [self._owned(layer) for layer in layers]
        same = zip(by_toc(owned), owned, strict=True)
        return [*super()._entries(owned), *((toc, layer) for toc, layer in same if toc.chain_id != layer.chain_id)]

    @contextmanager
    def _staged(self, layers: Sequence[PublishedLayer]) -> Iterator[dict[str, Path]]:
        known = self.published()
        made: dict[str, Path] = {}
        try:
            for layer in layers:
                make_tar_split(self.layers, layer.diff_id, self.tar_split_form, self._tmp)
                self._note_owners(layer.diff_id)
                if layer.chain_id not in known:
                    made[layer.chain_id] = self._tmp / f"chain-{secrets.token_hex(6)}"
                    self._make(made[layer.chain_id], layer.diff_id)
            yield made
        finally:
            for path in made.values():
                if path.exists():
                    shutil.rmtree(path)

    def _make(self, folder: Path, diff_id: Digest) -> None:
        for path in (folder, folder / _DATA, folder / "diff"):
            path.mkdir(mode=0o755)
        image = self.layers.image(diff_id)
        link_or_copy(image, folder / _DATA / _BLOB)
        add_to_forest(self.layers.forest(diff_id), folder / "diff")
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
        if layer.chain_id not in attempt.known:
            attempt.made[layer.chain_id].rename(self.folder(layer.chain_id))
            self._name(layer)
        for each in (layer, toc):
            if each.chain_id not in attempt.known:
                self._place_tar_split(each)
