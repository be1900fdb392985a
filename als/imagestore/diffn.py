"""The additional image store for podman 4, ROOT/is4, whose layers are mounted by the ``diffN`` rule.

::

    overlay/<chain>/diff        the layer's EROFS image, mounted; one mount for each chain ID, because overlay
                                refuses a directory that it is given twice, and an image may list a layer twice
    overlay/<chain>/diff1       -> the layer's forest; a forest of its own where a layer below has the same one
    overlay/<chain>/link        LINK
    overlay/<chain>/lower       l/PARENT-LINK:l/GRANDPARENT-LINK...
    overlay/l/LINK              -> ../<chain>/diff
    overlay-layers/layers.json, layers.lock
    overlay-layers/<chain>.tar-split.gz     -> ROOT/store/.tar-split/<chain>.gz, made by the FUSE face when it is opened
    overlay-images/images.json, images.lock

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

import base64
import hashlib
import logging
import os
import shutil
from collections.abc import Collection, Container, Mapping, Sequence
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.erofs.writer import write_image
from als.errors import AlsError, StoreDamaged
from als.imagestore.lock import StorageLock
from als.imagestore.records import PublishedLayer, format_entries, parse_entries
from als.model.digest import Digest
from als.model.merged import flatten, lowest
from als.mount.erofs import ensure_mounted
from als.mount.table import MountEntry, find_mount, is_mount, read_mounts
from als.mount.unmounting import unmount
from als.store.atomic import sync_file_system, write_atomically
from als.store.layers import Layers
from als.store.layout import Layout
from als.store.objects import add_to_forest
from als.store.refused import store_errors

log = logging.getLogger(__name__)

TAR_SPLIT_FOLDER = ".tar-split"
"""Where the FUSE face shows tar-split files, below its mount point."""
FLATTEN = 8
"""Every so many layers, one is flat; a fixed number, because clients keep the lowers of what they build on."""
_FLAT_IMAGE = "flat.erofs"
_TAR_SPLIT = ".tar-split.gz"
_LINK_TARGET = "../{}/diff"
_LOCK_TIMEOUT = 60.0
_PAGE = 4096
_SHORTEST_LINK = 2
# upperdir=, workdir= and the other options; both folders are below the client's graph root (40 characters allowed for).
_OTHER_OPTIONS = 2 * (40 + len("/overlay/") + 64 + len("upperdir=/work,")) + 80


class DiffNStore:
    """The tree below ROOT/is4."""

    def __init__(self, layout: Layout, layers: Layers) -> None:
        self._layout = layout
        self._layers = layers
        self._overlay = layout.image_store_4 / "overlay"
        self._records = layout.image_store_4 / "overlay-layers"
        self._images = layout.image_store_4 / "overlay-images"
        self._lock = StorageLock(self._records / "layers.lock")
        self._image_lock = StorageLock(self._images / "images.lock")

    def create(self) -> None:
        """Make the empty tree if it is missing."""
        for folder in (self._overlay / "l", self._records, self._images):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for lock, path in (
            (self._lock, self.list_file),
            (self._image_lock, self._images / "images.json"),
        ):
            lock.create()
            if not path.exists():
                write_atomically(path, b"[]")

    def fits(self, layer_count: int) -> bool:
        """Whether podman 4 can mount an image of so many layers of ours; it cannot if ROOT's path is very long."""
        each = len(f"{self._overlay}/l/:") + _SHORTEST_LINK + 1
        pair = each + each + len("/../diff1")
        return min(layer_count, FLATTEN) * pair + _OTHER_OPTIONS <= _PAGE

    def diff(self, chain_id: str) -> Path:
        """Where a chain's layer is mounted."""
        return self._overlay / chain_id / "diff"

    @property
    def list_file(self) -> Path:
        """layers.json."""
        return self._records / "layers.json"

    def published(self) -> dict[str, dict[str, object]]:
        """The entries of layers.json by chain ID."""
        path = self.list_file
        entries = parse_entries(path.read_bytes() if path.exists() else b"", str(path))
        return {entry["id"]: entry for entry in entries}

    def is_ready(self, chain_id: str) -> bool:
        """Whether a chain's layer is mounted."""
        return is_mount(self.diff(chain_id))

    def publish(self, layers: Sequence[PublishedLayer]) -> None:
        """Mount layers and list them; what is there already is left alone.

        :param layers: an image's, from the lowest on.
        :raises KernelError: a layer's image cannot be mounted.
        """
        with store_errors(self._overlay), self._lock.held(_LOCK_TIMEOUT) as announce:
            known = self.published()
            new = [layer for layer in layers if layer.chain_id not in known]
            try:
                self._prepare_all(layers, known)
                if not new:
                    return
                sync_file_system(self._overlay)
                self._write([*known.values(), *(layer.to_json() for layer in new)])
            except (OSError, AlsError):
                # A full disk, as a rule: give back what was taken.
                for layer in new:
                    self._remove(layer.chain_id)
                raise
            announce()

    def _prepare_all(self, layers: Sequence[PublishedLayer], known: Container[str]) -> None:
        mounts = read_mounts()
        for index, layer in enumerate(layers):
            if layer.parent != (layers[index - 1].chain_id if index else ""):
                raise StoreDamaged("the layer below it is missing", where=layer.chain_id, hint="pull the image again")
            if layer.chain_id not in known and self.folder(layer.chain_id).exists():
                # Left by an attempt that was cut short, perhaps by the power: nothing says that it is whole.
                self._remove(layer.chain_id)
                mounts = read_mounts()
            if layer.chain_id not in known or find_mount(self.diff(layer.chain_id), mounts) is None:
                self._prepare(layers[: index + 1], mounts)

    def unpublish(self, chain_ids: Collection[str]) -> None:
        """Take layers out of the list, then their mounts and folders away."""
        self.unlist(chain_ids)
        with store_errors(self._overlay), self._lock.held(_LOCK_TIMEOUT):
            for chain_id in chain_ids:
                self._remove(chain_id)

    def unlist(self, chain_ids: Collection[str]) -> list[dict[str, object]]:
        """Take layers out of the list alone, and return their entries: who uses them still can."""
        with store_errors(self._records), self._lock.held(_LOCK_TIMEOUT) as announce:
            known = self.published()
            gone = [known[chain_id] for chain_id in known if chain_id in chain_ids]
            if gone:
                self._write([entry for chain_id, entry in known.items() if chain_id not in chain_ids])
                announce()
            return gone

    def relist(self, entries: Sequence[Mapping[str, object]]) -> None:
        """Put back what :meth:`unlist` took out, if nothing of it was removed since."""
        with store_errors(self._records), self._lock.held(_LOCK_TIMEOUT) as announce:
            known = self.published()
            back = [entry for entry in entries if entry["id"] not in known]
            if back:
                self._write([*known.values(), *back])
                announce()

    def unlisted(self) -> list[str]:
        """Chain IDs of which something is here although they are not in the list: what a crash has left."""
        known = self.published()
        found = {name for name in os.listdir(self._overlay) if name != "l"}
        found |= {name.removesuffix(_TAR_SPLIT) for name in os.listdir(self._records) if name.endswith(_TAR_SPLIT)}
        links = (path.readlink().parts for path in (self._overlay / "l").iterdir())
        found |= {parts[1] for parts in links if len(parts) == 3}
        return sorted(found - known.keys())

    def folder(self, chain_id: str) -> Path:
        """What a chain's layer has for itself."""
        return self._overlay / chain_id

    def link_target(self, link: str) -> str | None:
        """The chain ID that a name in ``l/`` leads to, or None."""
        try:
            return (self._overlay / "l" / link).readlink().parts[1]
        except (OSError, IndexError):
            return None

    def _write(self, entries: Sequence[Mapping[str, object]]) -> None:
        write_atomically(self.list_file, format_entries(entries), mode=0o644)

    def remount(self) -> None:
        """Mount every listed layer that is not mounted: after a boot, none is. One that cannot be is left to `als fsck`."""
        with self._lock.held(_LOCK_TIMEOUT):
            mounts = read_mounts()
            for chain_id, entry in self.published().items():
                try:
                    ensure_mounted(self.image(chain_id, _diff_id(entry)), self.diff(chain_id), mounts=mounts)
                except AlsError as error:
                    log.warning("layer %s cannot be mounted, look with `als fsck`: %s", chain_id, error)

    def unmount_all(self) -> None:
        """Take all mounts away; containers that run keep what they have mounted."""
        if self._overlay.exists():
            for name in os.listdir(self._overlay):
                unmount(self._overlay / name / "diff", lazily=True)

    def _prepare(self, layers: Sequence[PublishedLayer], mounts: Sequence[MountEntry]) -> None:
        """Make all of the last of some layers that a client needs beside its entry in the list."""
        layer = layers[-1]
        folder = self._overlay / layer.chain_id
        for path in (folder, folder / "diff", folder / "empty", folder / "merged", folder / "work"):
            path.mkdir(mode=0o700, exist_ok=True)
        flat = len(layers) % FLATTEN == 0
        if flat:
            self._flatten(layers)
        elif not os.path.lexists(folder / "diff1"):
            self._place_forest(layers)
        ensure_mounted(self.image(layer.chain_id, layer.diff_id), folder / "diff", mounts=mounts)
        if len(layers) > 1 and not flat:
            write_once(folder / "lower", self.lower(layer.parent))
        write_once(folder / "link", self._link(layer.chain_id))
        link, target = self.tar_split(layer.chain_id)
        if not os.path.lexists(link):
            link.symlink_to(target)

    def image(self, chain_id: str, diff_id: Digest) -> Path:
        """What is mounted for a layer: its own image, or the flat one of all layers up to it."""
        return self.folder(chain_id) / _FLAT_IMAGE if self.is_flat(chain_id) else self._layers.image(diff_id)

    def _place_forest(self, layers: Sequence[PublishedLayer]) -> None:
        layer = layers[-1]
        diff1 = self._overlay / layer.chain_id / "diff1"
        forest = self._layers.forest(layer.diff_id)
        if layer.diff_id in [below.diff_id for below in layers[:-1]]:
            # Overlay would be given the layer's forest twice.
            self._make_forest(diff1, [forest])
        else:
            diff1.symlink_to(forest)

    def _flatten(self, layers: Sequence[PublishedLayer]) -> None:
        folder = self._overlay / layers[-1].chain_id
        if (folder / _FLAT_IMAGE).exists():
            return
        below, above = layers[:-FLATTEN], layers[-FLATTEN:]
        forests = [self._layers.forest(layer.diff_id) for layer in above]
        trees = [read_image_file(self._layers.image(layer.diff_id), LAYER) for layer in above]
        if below:
            flat = self._overlay / below[-1].chain_id
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

    @staticmethod
    def _make_forest(target: Path, sources: Sequence[Path]) -> None:
        staging = target.with_name(f"{target.name}.new")
        if staging.exists():
            shutil.rmtree(staging)
        for source in sources:
            add_to_forest(source, staging)
        staging.rename(target)

    def _link(self, chain_id: str) -> str:
        """The chain's name in ``l/``: made on first use, the same for ever."""
        target = _LINK_TARGET.format(chain_id)
        digits = base64.b32encode(hashlib.sha256(chain_id.encode()).digest()).decode().rstrip("=")
        for length in range(_SHORTEST_LINK, len(digits) + 1):
            path = self._overlay / "l" / digits[:length]
            if not os.path.lexists(path):
                path.symlink_to(target)
            if path.readlink() == Path(target):
                return digits[:length]
        raise StoreDamaged("no name is left for a layer", where=str(self._overlay / "l"))

    def tar_split(self, chain_id: str) -> tuple[Path, Path]:
        """The symlink where clients look for a chain's tar-split file, and where it leads."""
        target = self._layout.mount_point / TAR_SPLIT_FOLDER / f"{chain_id}.gz"
        return self._records / f"{chain_id}{_TAR_SPLIT}", target

    def is_flat(self, chain_id: str) -> bool:
        """Whether a chain's mount shows all layers up to it."""
        return (self.folder(chain_id) / _FLAT_IMAGE).exists()

    def lower(self, parent: str) -> str:
        """The content of ``lower`` for a layer on top of `parent`.

        :raises StoreDamaged: that is not published.
        """
        folder = self._overlay / parent
        try:
            above = "l/" + (folder / "link").read_text()
        except FileNotFoundError as error:
            raise StoreDamaged("the layer below is not published", where=parent, hint="pull the image again") from error
        below = folder / "lower"
        return f"{above}:{below.read_text()}" if below.exists() else above

    def _remove(self, chain_id: str) -> None:
        """Take away all there is of a chain; a part of it is no obstacle."""
        folder = self._overlay / chain_id
        unmount(folder / "diff", lazily=True)
        (self._records / f"{chain_id}{_TAR_SPLIT}").unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)
        # By what it leads to: the file that has its name may have been lost already.
        for path in (self._overlay / "l").iterdir():
            if path.readlink() == Path(_LINK_TARGET.format(chain_id)):
                path.unlink()


def write_once(path: Path, text: str) -> None:
    """Write a small file unless it is there as it should be. Durable with the next sync of the file system."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _diff_id(entry: Mapping[str, object]) -> Digest:
    return Digest.parse(str(entry.get("diff-digest")))
