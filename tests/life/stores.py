"""Small images, and what a store holds, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

from als.model.reference import parse_reference
from als.service import Service
from als.store.images import ImageRecord
from tests.harness.ocilayout import LayerBlob, Layout, TarBuilder


def layer(layout: Layout, name: str, files: int = 3, size: int = 3000) -> LayerBlob:
    """A layer with files of its own, each of `size` bytes at least, in a folder of its name."""
    tar = TarBuilder().directory(name)
    for number in range(files):
        tar.file(f"{name}/{number}", f"{name} {number} ".encode() * (1 + size // (len(name) + 4)))
    return layout.add_layer(tar.build())


def image(layout: Layout, tag: str, *names: str) -> str:
    """An image of one layer for each name; its reference."""
    layout.add_image(tag, [layer(layout, name) for name in names])
    return layout.name(tag)


def pull(service: Service, reference: str) -> ImageRecord:
    return service.pull(parse_reference(reference))


def contents(root: Path) -> set[str]:
    """Whatever a store holds of images, by path; not the folders that an empty store has."""
    found = set()
    for part in ("layers", "images", "refs", "uses", "tmp", "quarantine"):
        found |= {f"{part}/{path.name}" for path in (root / part).glob("*")}
    found |= {str(path.relative_to(root)) for path in (root / "objects").glob("*/*")}
    for store in (root / "is4", root / "image-store"):
        overlay = store / "overlay"
        found |= {str(path.relative_to(root)) for path in (*overlay.glob("*"), *overlay.glob("l/*")) if path != overlay / "l"}
        found |= {str(path.relative_to(root)) for path in (store / "overlay-layers").glob("*.tar-split.gz")}
        found |= {str(path.relative_to(root)) for path in (store / "chains").iterdir()}
    return found
