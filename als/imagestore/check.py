"""What is wrong with a published layer: whether all is there that a client reads, mounts or follows."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence

from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.errors import AlsError
from als.imagestore.diffn import DiffNStore
from als.imagestore.records import PublishedLayer
from als.model.forest import FOREST
from als.mount.erofs import shows_image
from als.mount.table import MountEntry, find_mount
from als.store.layers import Layers
from als.store.objects import forest_names


def faults(
    store: DiffNStore, layers: Layers, layer: PublishedLayer, listed: Container[str], mounts: Sequence[MountEntry]
) -> Iterator[str]:
    """What is wrong, in words; nothing where all is well. The layer itself is looked into elsewhere.

    :param listed: the chain IDs of all published layers.
    """
    if layer.parent and layer.parent not in listed:
        yield "the layer below it is not listed"
        return
    try:
        yield from _links(store, layer)
        yield from _forest(store, layers, layer)
        entry = find_mount(store.diff(layer.chain_id), mounts)
        if entry is None:
            yield "it is not mounted"
        elif not shows_image(entry, store.image(layer.chain_id, layer.diff_id)):
            yield "something else is mounted in its place"
    except AlsError as error:
        yield str(error)
    except OSError as error:
        yield f"{error.filename}: {error.strerror}"


def _links(store: DiffNStore, layer: PublishedLayer) -> Iterator[str]:
    folder = store.folder(layer.chain_id)
    if store.link_target((folder / "link").read_text()) != layer.chain_id:
        yield "its short name leads elsewhere"
    lower = folder / "lower"
    wanted = store.lower(layer.parent) if layer.parent and not store.is_flat(layer.chain_id) else ""
    if (lower.read_text() if lower.exists() else "") != wanted:
        yield "it names other layers below it than those there are"
    link, target = store.tar_split(layer.chain_id)
    if not os.path.lexists(link) or link.readlink() != target:
        yield "its tar-split link is missing"


def _forest(store: DiffNStore, layers: Layers, layer: PublishedLayer) -> Iterator[str]:
    diff1 = store.folder(layer.chain_id) / "diff1"
    forest = layers.forest(layer.diff_id)
    if diff1.is_symlink():
        if diff1.readlink() != forest:
            yield "its forest is another layer's"
        return
    if forest_names(forest) - forest_names(diff1):
        yield "its own forest lacks files"
    if store.is_flat(layer.chain_id):
        tree = read_image_file(store.image(layer.chain_id, layer.diff_id), LAYER)
        for name, (_, size) in tree.contents().items():
            path = diff1 / FOREST / name.hex()
            if not path.exists() or path.stat().st_size != size:
                yield f"its own forest lacks {name.hex()}, or has it with another size"
                return
