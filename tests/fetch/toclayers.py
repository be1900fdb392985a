"""Layers with tables of contents, served from memory, and the EROFS images that als makes of their streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from als.erofs.profile import LAYER
from als.erofs.writer import write_image
from als.errors import NotFound
from als.formats.codecs import decompressor, identify
from als.formats.discovery import find_formats, format_of
from als.formats.estargz.external import LAYER_DIGEST
from als.model.digest import Digest
from als.model.manifest import Descriptor
from als.registry.source import RawManifest
from tests.formats.lazylayers import LazyLayer
from tests.formats.streams import read_layer
from tests.formats.tocbuilder import (
    Source,
    Writer,
    document_of,
    file,
    finish_estargz,
    finish_podman,
    folder,
    gzip_member,
    info,
    zstd_frame,
    zstd_stargz,
)
from tests.harness.ocilayout import MANIFEST, MEDIA

FLAVOURS = ("estargz", "external", "podman", "stargz zstd")
D, A, LINK, HARD, DEVICE, TOOL = 0, 1, 2, 3, 4, 5
"""Numbers of the rows."""


def sources(content: bytes = b"a" * 2500) -> list[Source]:
    """Some names of all kinds."""
    return [
        folder("d", mtime=1_600_000_000),
        file("d/a", content, mode=0o644, uid=7, gid=8, mtime=1_500_000_000),
        (info("d/link", b"2", link="a", mode=0o777), b""),
        (info("d/hard", b"1", link="d/a", mode=0o644, uid=7, gid=8, mtime=1_500_000_000), b""),
        (info("d/null", b"3", devmajor=1, devminor=3, mode=0o666), b""),
        file("d/tool", b"#!/bin/sh\n", mode=0o4755, pax_headers={"SCHILY.xattr.user.note": "one"}),
    ]


def writer_of(flavour: str, content: bytes = b"a" * 2500) -> Writer:
    """A layer of :func:`sources`, in one chunk each, whose rows can still be changed."""
    made = Writer(gzip_member if flavour in ("estargz", "external") else zstd_frame, headers_apart=flavour == "podman")
    for member, data in sources(content):
        made.add(member, data)
    if flavour == "podman":
        made.end()
    return made


def finish(flavour: str, made: Writer, document: bytes | None = None) -> LazyLayer:
    """The layer, with a table of contents that may be another's."""
    document = document_of(made.rows) if document is None else document
    if flavour == "podman":
        return finish_podman(made, document, tar_split=False)
    return finish_estargz(made, document, external=flavour == "external")


def layer_of(flavour: str, content: bytes = b"a" * 2500) -> LazyLayer:
    """An honest layer."""
    if flavour == "stargz zstd":
        return zstd_stargz(sources(content))
    return finish(flavour, writer_of(flavour, content))


def image_of(layer: LazyLayer, path: Path) -> Path:
    """The EROFS image of what the layer's stream holds."""
    codec = decompressor(identify(layer.blob))
    stream = b"".join(bytes(piece) for piece in codec.feed(layer.blob))
    codec.finish()
    parser = format_of(find_formats(), layer.descriptor.media_type, layer.descriptor.annotations).parser
    read = read_layer(stream, parser)
    assert read.diff_id == layer.diff_id
    with path.open("wb") as image:
        write_image(read.tree(), image, LAYER)
    return path


@dataclass
class Shelf:
    """A source of one layer (and of its table of contents, as stargz-snapshotter keeps one in another image)."""

    layer: LazyLayer
    manifests: dict[str, RawManifest] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """What was asked for by ranges."""

    def manifest(self, name: str) -> RawManifest:
        if name not in self.manifests:
            raise NotFound("no such manifest", where=name)
        return self.manifests[name]

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        data = self.blobs.get(str(descriptor.digest), self.layer.blob)
        for start in range(0, len(data), 50):
            yield data[start : start + 50]

    def read_at(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        assert descriptor == self.layer.descriptor
        self.ranges.append((offset, length))
        return self.layer.blob[offset : offset + length]

    def close(self) -> None:
        """Nothing is held open."""


def shelf_of(layer: LazyLayer) -> Shelf:
    """A source of this layer under the tag ``one``."""
    if layer.toc is None:
        return Shelf(layer)
    config = Digest.of(b"{}")
    toc = {
        "mediaType": f"{MEDIA}.layer.v1.tar+gzip",
        "digest": str(Digest.of(layer.toc)),
        "size": len(layer.toc),
        "annotations": {LAYER_DIGEST: str(layer.descriptor.digest)},
    }
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": f"{MEDIA}.config.v1+json", "digest": str(config), "size": 2},
        "layers": [toc],
    }
    data = json.dumps(document).encode()
    return Shelf(layer, {"one-esgztoc": RawManifest(MANIFEST, data, Digest.of(data))}, {str(Digest.of(layer.toc)): layer.toc})
