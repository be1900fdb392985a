"""An image as one composefs file: all of its layers in one EROFS image, as ``mkcomposefs`` writes it for the same files.

Redirects lead to objects by their fs-verity digests, as composefs has it, not by their sha256, as the store does: the file is
to be the same, bit for bit, whoever makes it, so that its own fs-verity digest says what the image is. A folder of objects
under those names (``basedir`` of mount.composefs) is made of hardlinks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from als.erofs.profile import COMPOSEFS_V0, COMPOSEFS_V1, Profile
from als.erofs.writer import write_image
from als.errors import StoreError
from als.model.forest import forest_path
from als.model.merged import flatten, lowest
from als.model.tree import Content, Directory, Inode, Node, Tree
from als.mount.unmounting import cloned_mount
from als.native.refusal import Refusal, refusal
from als.service.contents import layer_tree
from als.service.core import Service
from als.store.images import ImageRecord
from als.store.objects import link_or_copy
from als.store.refused import store_errors
from als.store.sealing import seal_file
from als.verity.library import digest_of_fd, known_or_computed

PROFILES: Mapping[int, Profile] = {0: COMPOSEFS_V0, 1: COMPOSEFS_V1}
"""By ``mkcomposefs --min-version``."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    digest: str
    """The fs-verity digest of the file, 64 hex digits."""
    sealed: bool
    """Whether the kernel holds the file to it."""
    objects: int
    """How many the file leads to."""


def merged_tree(service: Service, image: ImageRecord) -> tuple[Tree, dict[bytes, bytes], dict[bytes, Path]]:
    """All layers as one tree whose contents are named by their fs-verity digests.

    :returns: the tree; the digest of each content, which is its own name; and where each is in the store.
    :raises NotFound: a layer is not complete.
    :raises MissingLibrary: an object is not sealed, and als was built without libfsverity.
    """
    diff_ids = image.config.diff_ids
    trees = [layer_tree(service, diff_id) for diff_id in diff_ids]
    tree = lowest(trees[0])
    for upper in trees[1:]:
        tree = flatten(tree, upper)
    needed = tree.contents()
    places: dict[bytes, Path] = {}
    for diff_id, each in zip(diff_ids, trees, strict=True):
        forest = service.layers.forest(diff_id)
        places.update({name: forest / forest_path(name) for name in each.contents().keys() & needed.keys()})
    with store_errors(service.layout.root):
        digests = _digests(places)
    renamed = _renamed(tree.root, {}, digests)
    return (
        Tree(renamed),
        {digest: digest for digest in digests.values()},
        {digests[name]: path for name, path in places.items()},
    )


def _digests(places: Mapping[bytes, Path]) -> dict[bytes, bytes]:
    with ThreadPoolExecutor(os.cpu_count() or 2, thread_name_prefix="digest") as pool:
        return dict(zip(places, pool.map(known_or_computed, places.values()), strict=True))


def _renamed(directory: Directory, known: dict[Inode, Inode], digests: Mapping[bytes, bytes]) -> Directory:
    """A directory with the digests as names of contents; hardlinks stay such."""
    entries: dict[bytes, Node] = {}
    for name, node in directory.entries.items():
        if isinstance(node, Directory):
            entries[name] = _renamed(node, known, digests)
        elif node.content is None or node.data is not None:
            entries[name] = node
        else:
            if node not in known:
                known[node] = replace(node, content=Content(digests[node.content.name], None))
            entries[name] = known[node]
    return Directory(directory.inode, entries, directory.opaque)


def export_composefs(
    service: Service, image: ImageRecord, target: Path, *, objects: Path | None = None, version: int = 0
) -> Exported:
    """Write an image's composefs file; durable when it returns.

    :param target: what is there is replaced.
    :param objects: a folder that gets the objects, as ``xx/yyyy...``; those that it has stay.
    :param version: of the format; see PROFILES.
    :raises Unsupported: the image has a name in its root directory that composefs needs (``00`` to ``ff``).
    :raises AlsError: as :func:`merged_tree`, or it cannot be written.
    """
    tree, verity, places = merged_tree(service, image)
    if objects is not None:
        with _written(objects):
            _place(places.items(), service.layout.root, objects.absolute())
    staging = target.with_name(f".{target.name}.new")
    with _written(target):
        try:
            with staging.open("wb") as file:
                write_image(tree, file, PROFILES[version], verity=verity)
                file.flush()
                os.fsync(file.fileno())
            digest, sealed = _sealed(staging)
            staging.rename(target)
        finally:
            staging.unlink(missing_ok=True)
    return Exported(digest.hex(), sealed, len(places))


def _sealed(path: Path) -> tuple[bytes, bool]:
    """A file's digest, and whether the file system could be made to hold it to that."""
    try:
        return seal_file(path), True
    except OSError as error:
        if refusal(error) not in (Refusal.UNSUPPORTED, Refusal.INVALID, Refusal.NOT_PERMITTED):
            raise
    with path.open("rb") as file:
        return digest_of_fd(file.fileno()), False


def _place(objects: Iterable[tuple[bytes, Path]], root: Path, folder: Path) -> None:
    """
    :param root: the store's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = Path(os.path.commonpath([root, folder]))
    # als may have mounted ROOT on itself, and a hardlink must not lead from one mount to another. So both folders are reached
    # through one copy of the mount that they lie on.
    with cloned_mount(common) as view:
        store, place = view / root.relative_to(common), view / folder.relative_to(common)
        if not (_is_same(store, root) and _is_same(place, folder)):
            hint = f"objects are hardlinked: choose a folder on the file system of {root}, without a mount in between"
            raise StoreError("on another file system than the store", where=str(folder), hint=hint)
        for digest, path in objects:
            text = digest.hex()
            target = place / text[:2] / text[2:]
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                link_or_copy(store / path.relative_to(root), target)


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Around what writes outside of the store."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", where=str(path)) from error
