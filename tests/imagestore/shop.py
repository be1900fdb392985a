"""A store with layers that are made in a moment, and both image stores over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.writer import write_image
from als.imagestore.check import faults
from als.imagestore.composefs import ComposefsStore
from als.imagestore.diffn import DiffNStore
from als.imagestore.records import PublishedLayer
from als.imagestore.tree import ImageStore
from als.model.chain import chain_id
from als.model.digest import Digest
from als.model.manifest import LayerCompression
from als.model.tree import WHITEOUT, Content, Directory, FileType, Inode, Tree
from als.mount.table import read_mounts
from als.store.layers import LayerRecord, Layers
from als.store.layout import Layout
from als.store.recipe import ObjectPart, RecipeWriter

CREATED = 1_700_000_000.0


class Shop:
    """See the module."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.layout.create()
        self.layers = Layers(self.layout)
        self.diff_n = DiffNStore(self.layout, self.layers)
        self.composefs = ComposefsStore(self.layout, self.layers)
        for store in self.stores:
            store.create()

    @property
    def stores(self) -> tuple[ImageStore, ImageStore]:
        return self.diff_n, self.composefs

    def layer(
        self,
        files: bytes | Mapping[str, bytes],
        parent: str = "",
        gone: Sequence[str] = (),
        *,
        toc: Digest | None = None,
        mode: int = 0o755,
        uid: int = 0,
    ) -> PublishedLayer:
        """A layer with some files, or one that is called ``file``; it hides those that are `gone`.

        :param mode: of its root directory.
        :param uid: of its files.
        """
        contents = {"file": files} if isinstance(files, bytes) else files
        content = repr((sorted(contents.items()), gone, mode, uid)).encode()
        diff_id = Digest.of(b"stream of " + content)
        if not self.layers.has(diff_id):
            self._make(diff_id, contents, Directory(Inode(FileType.DIR, mode), {name.encode(): WHITEOUT for name in gone}), uid)
        chain = chain_id(parent, diff_id)
        blob = Digest.of(b"blob of " + content)
        return PublishedLayer(chain, parent, diff_id, 10_240, blob, 512, LayerCompression.GZIP, CREATED, toc)

    def _make(self, diff_id: Digest, contents: Mapping[str, bytes], root: Directory, uid: int) -> None:
        with self.layers.stage() as staging:
            with staging.recipe.open("wb") as out:
                recipe = RecipeWriter(out)
                for name, data in contents.items():
                    held = Content.of_sha256(staging.forest.add(data)) if data else None
                    root.entries[name.encode()] = Inode(FileType.FILE, 0o644, uid, size=len(data), content=held)
                    if held is not None:
                        recipe.object(ObjectPart(held.name, 0, len(data)))
                recipe.close()
            with staging.image.open("wb") as image:
                write_image(Tree(root), image, LAYER)
            staging.complete(LayerRecord(diff_id, 10_240, "tar", 2, len(contents), CREATED))
            self.layers.show([staging])

    def faults(self, store: ImageStore) -> list[str]:
        """What is wrong with what a store lists, and what lies about there without being listed."""
        entries = store.published()
        listed = [PublishedLayer.from_json(entry) for entry in entries.values()]
        mounts = read_mounts()
        found = [f"{layer.chain_id}: {fault}" for layer in listed for fault in faults(store, layer, entries, mounts)]
        return [*found, *(f"{chain}: left over" for chain in store.unlisted())]


def tree_of(store: ImageStore) -> set[Path]:
    """Every path of a store but those with a random name, which belong to its present state."""
    paths = (path.relative_to(store.root) for path in store.root.rglob("*"))
    return {path for path in paths if path.parts[0] != "states"}


def in_sight(store: ImageStore) -> set[str]:
    """The chain IDs of which a client finds a folder. It takes what is there for a layer's, listed or not."""
    return {path.name for path in store.overlay.iterdir() if path.name != "l" and path.exists()}
