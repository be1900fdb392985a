"""Lazily readable layers for tests: from OCI layouts, and read from nothing but ranges of their blobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from als.errors import AlsError
from als.formats.estargz.external import toc_layer
from als.formats.index import LayerIndex, Unit
from als.formats.lazy import BlobRange, ExternalToc, IndexedFormat, Request, run
from als.formats.units import StreamRange, Verified, read_file, read_stream
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import Descriptor, Manifest, parse_manifest


@dataclass
class LazyLayer:
    """A layer, and what was asked of its blob."""

    name: str
    number: int
    descriptor: Descriptor
    blob: bytes
    diff_id: str
    toc: bytes | None = None
    """The external table of contents."""
    asked: list[Request] = field(default_factory=list)

    def answer(self, request: Request) -> bytes:
        self.asked.append(request)
        if isinstance(request, ExternalToc):
            assert request.layer == self.descriptor.digest
            assert self.toc is not None, "an external table of contents is asked for"
            return self.toc
        assert request.length > 0
        assert 0 <= request.offset <= request.offset + request.length <= len(self.blob)
        return self.blob[request.offset : request.offset + request.length]

    def index(self, wanted: IndexedFormat, limits: Limits = DEFAULT_LIMITS) -> LayerIndex:
        return run(wanted.read(self.descriptor, limits), self.answer)

    def refusal(self, wanted: IndexedFormat, limits: Limits = DEFAULT_LIMITS) -> AlsError | None:
        try:
            self.index(wanted, limits)
        except AlsError as error:
            return error
        return None

    def unit(self, unit: Unit) -> bytes:
        return self.answer(BlobRange(unit.offset, unit.length))

    def content(self, index: LayerIndex, number: int) -> bytes:
        return b"".join(read_file(index, number, self.unit))

    def stream(self, index: LayerIndex, piece: int = 1 << 20) -> bytes:
        """The uncompressed stream, from its ranges in pieces of this size."""

        def fetch(wanted: StreamRange) -> Iterator[bytes]:
            data = self.answer(BlobRange(wanted.offset, wanted.length))
            return (data[start : start + piece] for start in range(0, len(data), piece))

        return b"".join(bytes(event.data) for event in read_stream(index, fetch) if not isinstance(event, Verified))


def layers_of(layout: Path) -> Iterator[LazyLayer]:
    """The layers of the first image of a layout; tables of contents are looked for in its other images."""

    def load(digest: object) -> bytes:
        return (layout / "blobs" / str(digest).replace(":", "/")).read_bytes()

    listed = json.loads((layout / "index.json").read_text("utf-8"))["manifests"]
    manifests = [parse_manifest(load(each["digest"]), each["mediaType"]) for each in listed]
    image, *others = [each for each in manifests if isinstance(each, Manifest)]
    diff_ids = json.loads(load(image.config.digest))["rootfs"]["diff_ids"]
    for number, layer in enumerate(image.layers):
        tocs = [found for each in others if (found := toc_layer(each, layer.digest)) is not None]
        toc = load(tocs[0].digest) if tocs else None
        yield LazyLayer(layout.name, number, layer, load(layer.digest), diff_ids[number], toc)


def descriptor(media_type: str, blob: bytes, annotations: dict[str, str]) -> Descriptor:
    return Descriptor(media_type, Digest.of(blob), len(blob), annotations)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
