"""The additional image store for podman 4, ROOT/is4, whose layers are mounted by the ``diffN`` rule.

::

    overlay/<chain>/diff        the layer's EROFS image, mounted; one mount for each chain ID, because overlay
                                refuses a directory that it is given twice, and an image may list a layer twice
    overlay/<chain>/flat.verity the fs-verity digest of flat.erofs, if there is one and it is sealed
    overlay/<chain>/diff1       -> the layer's forest; a forest of its own where a layer below has the same one
    and what :mod:`als.imagestore.tree` makes in either layout

For each lower directory podman appends ``<lower>/../diff1`` if that exists, so EROFS image and forest become two lower
directories of the container's overlay, and overlay's own metacopy and redirect join them.

podman 4 passes all of that in one page of mount options, with our paths absolute: some fifty layers would fit, where
plain overlay takes 127. So every `FLATTEN`-th layer of an image is *flat*: its ``diff`` is a mounted image (``flat.erofs``)
of all layers up to it, ``diff1`` a forest with the objects of them all, and it has no ``lower``. No image needs more than
`FLATTEN` pairs of directories then, however many layers it has, and whatever podman puts on top of it. For its layers.json a
flat layer is one like any other; what it adds to the layer below, ``podman image diff`` finds by comparing the two.
Rejected: one forest below all layers, because the whiteout that hides a forest in one layer ends overlay's search
for the redirects of those above; leaving tall images to podman, because it would take those of their layers that are
listed here for another image all the same, and then fail to mount the whole.
LINK is as short as can be (containers/storage itself uses 26 characters).
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.erofs.writer import write_image
from als.errors import AlsError
from als.imagestore.records import PublishedLayer
from als.imagestore.tree import LOCK_TIMEOUT, Attempt, ImageStore, write_once
from als.model.digest import Digest
from als.model.forest import FOREST
from als.model.merged import flatten, lowest
from als.mount.erofs import ensure_mounted, shows_image
from als.mount.table import MountEntry, find_mount, is_mount, read_mounts
from als.mount.unmounting import unmount_all
from als.store.atomic import sync_directory
from als.store.layers import Layers
from als.store.layout import Layout, TarSplitForm
from als.store.objects import add_to_forest, forest_names
from als.verity.existing import seal_copy
from als.verity.policy import UNSEALED, Policy

log = logging.getLogger(__name__)

FLATTEN = 8
"""Every so many layers, one is flat; a fixed number, because clients keep the lowers of what they build on."""
_FLAT_IMAGE = "flat.erofs"
_FLAT_DIGEST = "flat.verity"
_PAGE = 4096
# upperdir=, workdir= and the other options; both folders are below the client's graph root (40 characters allowed for).
_OTHER_OPTIONS = 2 * (40 + len("/overlay/") + 64 + len("upperdir=/work,")) + 80


class DiffNStore(ImageStore):
    """The tree below ROOT/is4."""

    layout = "diffN"
    by_toc = False
    shortest_link = 2
    tar_split_form = TarSplitForm.FOREST

    def __init__(self, layout: Layout, layers: Layers, policy: Policy = UNSEALED) -> None:
        super().__init__(layout.image_store_4, layers, layout.tmp, layout.quarantine)
        self._policy = policy

    def fits(self, layer_count: int) -> bool:
        """Whether podman 4 can mount an image of so many layers of ours; it cannot if ROOT's path is very long."""
        each = len(f"{self.overlay}/l/:") + self.shortest_link + 1
        pair = each + each + len("/../diff1")
        return min(layer_count, FLATTEN) * pair + _OTHER_OPTIONS <= _PAGE

    def diff(self, chain_id: str) -> Path:
        """Where a chain's layer is mounted."""
        return self.folder(chain_id) / "diff"

    def is_ready(self, chain_id: str) -> bool:
        """Whether a chain's layer is mounted."""
        return is_mount(self.diff(chain_id))

    def forest(self, chain_id: str) -> Path | None:
        """``diff1``, where it is no link to the layer's."""
        diff1 = self.folder(chain_id) / "diff1"
        return None if diff1.is_symlink() else diff1

    def borrowed(self, chain_id: str) -> str | None:
        """The layer whose forest ``diff1`` is."""
        diff1 = self.folder(chain_id) / "diff1"
        return diff1.readlink().parent.name if diff1.is_symlink() else None

    def faults(self, layer: PublishedLayer, mounts: Sequence[MountEntry]) -> Iterator[str]:
        """What is wrong with a published layer, in words."""
        yield from super().faults(layer, mounts)
        yield from self._forest_faults(layer)
        entry = find_mount(self.diff(layer.chain_id), mounts)
        if entry is None:
            yield "it is not mounted"
        elif not shows_image(entry, self.image(layer.chain_id, layer.diff_id)):
            yield "something else is mounted in its place"

    def _forest_faults(self, layer: PublishedLayer) -> Iterator[str]:
        diff1 = self.folder(layer.chain_id) / "diff1"
        forest = self.layers.forest(layer.diff_id)
        if diff1.is_symlink():
            if diff1.readlink() != forest:
                yield "its forest is another layer's"
            return
        if forest_names(forest) - forest_names(diff1):
            yield "its own forest lacks files"
        if self.is_flat(layer.chain_id):
            tree = read_image_file(self.image(layer.chain_id, layer.diff_id), LAYER)
            for name, (_, size) in tree.contents().items():
                path = diff1 / FOREST / name.hex()
                if not path.exists() or path.stat().st_size != size:
                    yield f"its own forest lacks {name.hex()}, or has it with another size"
                    return

    def remount(self) -> None:
        """Mount every listed layer that is not mounted: after a boot, none is. One that cannot be is left to `als fsck`."""
        with self._lock.held(LOCK_TIMEOUT):
            mounts = read_mounts()
            for chain_id, entry in self.published().items():
                try:
                    diff_id = Digest.parse(str(entry.get("diff-digest")))
                    self._mount(chain_id, diff_id, mounts)
                except AlsError as error:
                    log.warning("layer %s cannot be mounted, look with `als fsck`: %s", chain_id, error)

    def unmount_all(self) -> None:
        """Take all mounts away; containers that run keep what they have mounted."""
        if self.overlay.exists():
            for name in self._appearance.found():
                unmount_all(self.diff(name))

    def _prepare(self, layers: Sequence[PublishedLayer], attempt: Attempt) -> None:
        layer = layers[-1]
        folder = self.folder(layer.chain_id)
        self._place_tar_split(layer)
        if layer.chain_id in attempt.known and find_mount(folder / "diff", attempt.mounts) is not None:
            # It may be sealed only since it was mounted.
            self._seal_flat(layer.chain_id)
            self._mount(layer.chain_id, layer.diff_id, attempt.mounts)
            return
        for path in (folder, folder / "diff"):
            path.mkdir(mode=0o700, exist_ok=True)
        if len(layers) % FLATTEN == 0:
            self._flatten(layers)
            self._seal_flat(layer.chain_id)
        elif not os.path.lexists(folder / "diff1"):
            self._place_forest(layers)
        self._mount(layer.chain_id, layer.diff_id, attempt.mounts)
        self._name(layer)

    def _mount(self, chain_id: str, diff_id: Digest, mounts: Sequence[MountEntry]) -> None:
        image = self.image(chain_id, diff_id)
        verify = self._policy.verifier(self._digest(chain_id, diff_id), str(image))
        ensure_mounted(image, self.diff(chain_id), mounts=mounts, verify=verify)

    def _lower_of(self, layer: PublishedLayer) -> str:
        return "" if self.is_flat(layer.chain_id) else super()._lower_of(layer)

    def image(self, chain_id: str, diff_id: Digest) -> Path:
        """What is mounted for a layer: its own image, or the flat one of all layers up to it."""
        return self.folder(chain_id) / _FLAT_IMAGE if self.is_flat(chain_id) else self.layers.image(diff_id)

    def _place_forest(self, layers: Sequence[PublishedLayer]) -> None:
        layer = layers[-1]
        diff1 = self.folder(layer.chain_id) / "diff1"
        forest = self.layers.forest(layer.diff_id)
        if layer.diff_id in [below.diff_id for below in layers[:-1]]:
            # Overlay would be given the layer's forest twice.
            self._make_forest(diff1, [forest])
        else:
            diff1.symlink_to(forest)

    def _flatten(self, layers: Sequence[PublishedLayer]) -> None:
        folder = self.folder(layers[-1].chain_id)
        if (folder / _FLAT_IMAGE).exists():
            return
        below, above = layers[:-FLATTEN], layers[-FLATTEN:]
        forests = [self.layers.forest(layer.diff_id) for layer in above]
        trees = [read_image_file(self.layers.image(layer.diff_id), LAYER) for layer in above]
        if below:
            flat = self.folder(below[-1].chain_id)
            forests.append(flat / "diff1")
            trees.insert(0, read_image_file(flat / _FLAT_IMAGE, LAYER))
        tree = lowest(trees[0])
        for upper in trees[1:]:
            tree = flatten(tree, upper)
        if not (folder / "diff1").exists():
            self._make_forest(folder / "diff1", forests)
        staging = folder / f"{_FLAT_IMAGE}.new"
        with staging.open("wb") as image:
            write_image(tree, image, LAYER)
        staging.rename(folder / _FLAT_IMAGE)

    def _seal_flat(self, chain_id: str) -> None:
        """Seal a flat image, if it is one and was not sealed."""
        folder = self.folder(chain_id)
        if not self.is_flat(chain_id) or (folder / _FLAT_DIGEST).exists():
            return
        staging = folder / f"{_FLAT_IMAGE}.sealed"
        staging.unlink(missing_ok=True)
        digest = seal_copy(self._policy, folder / _FLAT_IMAGE, folder / "diff1", chain_id, staging)
        if digest:
            # In this order: an image that is sealed, but not known to be, is made again.
            staging.rename(folder / _FLAT_IMAGE)
            sync_directory(folder)
            write_once(folder / _FLAT_DIGEST, digest)

    def _digest(self, chain_id: str, diff_id: Digest) -> str:
        """The fs-verity digest, in hex, that was recorded of what is mounted for a layer; "": it is not sealed."""
        if not self.is_flat(chain_id):
            return self.layers.get(diff_id).verity
        path = self.folder(chain_id) / _FLAT_DIGEST
        return path.read_text() if path.exists() else ""

    @staticmethod
    def _make_forest(target: Path, sources: Sequence[Path]) -> None:
        staging = target.with_name(f"{target.name}.new")
        if staging.exists():
            shutil.rmtree(staging)
        for source in sources:
            add_to_forest(source, staging)
        staging.rename(target)

    def is_flat(self, chain_id: str) -> bool:
        """Whether a chain's mount shows all layers up to it."""
        return (self.folder(chain_id) / _FLAT_IMAGE).exists()

    def _remove(self, chain_id: str) -> None:
        folder = self._appearance.folder(chain_id)
        if folder.exists():
            unmount_all(folder / "diff")
        super()._remove(chain_id)
