"""The layers of one image as one, some of them complete and some on their way: what is at a path, and which bytes are here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.reader import ImageNames
from als.lazy.elf import Span
from als.lazy.layer import LazyLayer
from als.lazy.names import IndexNames
from als.model.forest import FOREST
from als.model.merged import Found, Names, find_merged
from als.model.tree import Inode
from als.store.refused import store_errors


@dataclass(frozen=True, slots=True)
class CompleteLayer:
    """A layer all of which is here."""

    image: Path
    """Its layer.erofs."""
    forest: Path
    """The folder that has ``.als/<name>`` of all its files."""


class ImageView:
    """See the module. Not thread-safe. Names are looked up one by one, in the layers' metadata images or, where one is still
    being written, in the layer's index: no tree is made of them.

    :param layers: lowest first.
    :raises StoreError: a metadata image cannot be read, or (StoreDamaged) is not what als writes; as from all methods.
    """

    def __init__(self, layers: Sequence[LazyLayer | CompleteLayer]) -> None:
        self._layers = layers
        self._names: list[Names] = []
        for layer in layers:
            if isinstance(layer, LazyLayer) and not layer.record.image_sha256:
                self._names.append(IndexNames(layer.index))
                continue
            path = layer.folder.image if isinstance(layer, LazyLayer) else layer.image
            with store_errors(path):
                self._names.append(ImageNames(path, LAYER))

    def lookup(self, path: bytes) -> Found | None:
        """What a container sees at a path, symlinks followed."""
        return find_merged(self._names, path)

    def peek(self, file: Found, span: Span) -> bytes | None:
        """Bytes of a file, or None while they are not here."""
        layer = self._layers[file.layer]
        if isinstance(layer, LazyLayer):
            return layer.peek(name_of(file), span.offset, span.length)
        path = layer.forest / FOREST / name_of(file).hex()
        with store_errors(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(fd, span.length, span.offset)
            finally:
                os.close(fd)

    def lazy_layer(self, file: Found) -> LazyLayer | None:
        """The lazy layer that a file is from; None: it is from one that is complete."""
        layer = self._layers[file.layer]
        return layer if isinstance(layer, LazyLayer) else None

    def is_native(self, path: bytes) -> bool:
        """Whether who opens this path now gets the file itself, whose reads nobody sees."""
        found = self.lookup(path)
        if found is None or not isinstance(found.node, Inode) or found.node.content is None:
            return False
        layer = self.lazy_layer(found)
        return layer is None or layer.whole_file(found.node.content.name)

    def path_of(self, name: bytes) -> bytes | None:
        """A path at which a container sees the content of this name, if it is one of a lazy layer."""
        for layer in self._layers:
            for path in layer.paths(name) if isinstance(layer, LazyLayer) else ():
                found = self.lookup(path)
                content = found.node.content if found is not None and isinstance(found.node, Inode) else None
                if found is not None and content is not None and content.name == name:
                    return found.path
        return None


def name_of(file: Found) -> bytes:
    """In the forest, of a file that is not within the metadata."""
    assert isinstance(file.node, Inode)
    assert file.node.content is not None
    return file.node.content.name
