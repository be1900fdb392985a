"""Layers that are not complete, without a daemon: a plain directory stands where the FUSE face would serve their files."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from als.imagestore.composefs import ComposefsStore
from als.imagestore.records import PublishedLayer, by_toc
from als.model.digest import Digest
from als.model.forest import FOREST
from als.mount.erofs import mount_erofs
from als.mount.features import data_only_lowers, kernel_version
from als.store.objects import link_or_copy
from tests.imagestore.shop import Shop


class LazyShop:
    """Makes layers of a shop lazy, and complete again."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self._aside = shop.layout.root / "aside"
        self._aside.mkdir()

    def key(self, layer: PublishedLayer) -> str:
        return hashlib.sha256(f"key of {layer.toc}".encode()).hexdigest()

    def folder(self, layer: PublishedLayer) -> Path:
        return self.shop.layout.lazy / self.key(layer)

    def lazy(self, layer: PublishedLayer) -> PublishedLayer:
        """The layer as it is shown when nothing but its index is here."""
        layout, folder, rest = self.shop.layout, self.folder(layer), self.shop.layout.lazy_files / self.key(layer)
        for path in (folder / "diff1" / FOREST, folder / "parts", folder / "diff", rest / FOREST):
            path.mkdir(parents=True)
        whole = layout.layer(layer.diff_id).rename(self._aside / layer.diff_id.hex)
        link_or_copy(whole / "layer.erofs", folder / "layer.erofs")
        for path in (whole / "diff1" / FOREST).iterdir():
            link_or_copy(path, rest / FOREST / path.name)
        return replace(layer, diff_size=-1, blob=None, lazy=self.key(layer))

    def arrive(self, layer: PublishedLayer, count: int = 1 << 30) -> None:
        """Some files of a lazy layer are here."""
        source, target = self._aside / layer.diff_id.hex / "diff1" / FOREST, self.folder(layer) / "diff1" / FOREST
        for name in sorted(os.listdir(source))[:count]:
            link_or_copy(source / name, target / name)

    def seal(self, layer: PublishedLayer, arrived: int = 1 << 30) -> None:
        """All of the layer is here, and it is what was promised.

        :param arrived: how many files of the lazy one are; not all where somebody has pulled it whole.
        """
        self.arrive(layer, arrived)
        (self._aside / layer.diff_id.hex).rename(self.shop.layout.layer(layer.diff_id))
        assert layer.toc is not None
        self.shop.layers.add_toc(layer.diff_id, layer.toc)


def image(shop: Shop, shape: str) -> list[PublishedLayer]:
    """An image's layers, all complete: one for each character, with a table of contents unless that is a point."""
    layers: list[PublishedLayer] = []
    for number, each in enumerate(shape):
        toc = None if each == "." else Digest.of(f"table of {shape} {number}".encode())
        files = {f"{number}-{file}": f"{shape} {number} {file}".encode() * 100 for file in range(3)}
        layer = shop.layer(files, layers[-1].chain_id if layers else "", toc=toc)
        if toc is not None:
            shop.layers.add_toc(layer.diff_id, toc)
        layers.append(layer)
    return layers


def shown(store: ComposefsStore, chain_ids: Sequence[str], place: Path) -> dict[str, bytes]:
    """What a container of podman 5 on some chains, the lowest first, reads."""
    return {path.name: path.read_bytes() for path in mounted(store, chain_ids, place).iterdir()}


def mounted(store: ComposefsStore, chain_ids: Sequence[str], place: Path) -> Path:
    """The root of such a container."""
    points: list[str] = []
    for number, chain_id in enumerate(reversed(chain_ids)):
        point = place / f"i{number}"
        point.mkdir(parents=True)
        mount_erofs(store.blob(chain_id), point)
        points.append(str(point))
    data = [str(store.overlay / chain_id / "diff") for chain_id in reversed(chain_ids)]
    separator = "::" if data_only_lowers(kernel_version()).ok else ":"
    merged = place / "merged"
    merged.mkdir()
    options = f"lowerdir={':'.join(points)}{separator}{separator.join(data)},metacopy=on,redirect_dir=on"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", merged], check=True)
    return merged


def content(shape: str) -> dict[str, bytes]:
    """What is in an image of :func:`image`."""
    return {f"{number}-{file}": f"{shape} {number} {file}".encode() * 100 for number in range(len(shape)) for file in range(3)}


def ids(layers: Sequence[PublishedLayer]) -> list[str]:
    """An image's chain IDs for a client that identifies layers by tables of contents."""
    return [layer.chain_id for layer in by_toc(layers)]
