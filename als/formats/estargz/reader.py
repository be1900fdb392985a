"""Reads an eStargz layer's table of contents (stargz-snapshotter, ``docs/estargz.md``).

It is the last gzip member before the footer: a tar archive whose one entry, ``stargz.index.json``, is the JSON. The manifest
commits to the sha256 of that JSON.

The stream whose digest is the DiffID is the whole blob decompressed, table of contents included (but not an external one).
"""

from __future__ import annotations

from collections.abc import Iterator

from als.errors import BadImage, LimitExceeded
from als.formats.base import Begin, Payload
from als.formats.codecs import Compression, decompressor
from als.formats.estargz.footer import LONGEST, parse_footer
from als.formats.index import Commitment, LayerIndex
from als.formats.indexbuilder import IndexBuilder
from als.formats.indexrows import Watch, unwatched
from als.formats.lazy import BlobRange, ExternalToc, FoundToc, TocDigests, TocFinder, fetched
from als.formats.tar.parser import TarParser
from als.formats.toc.entries import TOC_NAME, TocReader
from als.formats.toc.text import text_limits
from als.model.digest import Digest
from als.model.limits import Limits
from als.model.manifest import STARGZ_TOC, Descriptor, toc_digest

_FEED = 1 << 18
_TAIL_LEAST = 64 << 10
_TAIL_MOST = 512 << 10
"""The first request is for more than the footer: a second one costs a round trip, in which a usual link brings as much."""
_TAIL_SHARE = 64


def digests(layer: Descriptor) -> TocDigests:
    """See :class:`als.formats.lazy.IndexedFormat`."""
    return TocDigests(text=_committed(layer))


def find(layer: Descriptor, limits: Limits) -> TocFinder:
    """See :class:`als.formats.lazy.IndexedFormat`."""
    if not layer.size:
        raise BadImage("an empty blob", where=f"layer {layer.digest}")
    request = _tail(layer.size)
    tail = fetched(request, (yield request))
    footer = parse_footer(tail[-LONGEST:], layer.size)
    payload_end = footer.start if footer.toc is None else footer.toc
    if footer.toc is None:
        toc = yield ExternalToc(layer.digest, limits.toc_bytes)
        if len(toc) > limits.toc_bytes:
            raise LimitExceeded(f"a table of contents of {len(toc)} bytes", where=f"layer {layer.digest}")
    else:
        if footer.start - footer.toc > limits.toc_bytes:
            raise LimitExceeded(f"a table of contents of {footer.start - footer.toc} bytes", where=f"layer {layer.digest}")
        toc = tail[max(0, footer.toc - request.offset) : footer.start - request.offset]
        if footer.toc < request.offset:
            missing = BlobRange(footer.toc, request.offset - footer.toc)
            toc = fetched(missing, (yield missing)) + toc
    return FoundToc(toc, payload_end)


def _committed(layer: Descriptor) -> Digest:
    digest = toc_digest(layer)
    if digest is None:
        raise BadImage("the manifest does not commit to a table of contents", where=f"layer {layer.digest}")
    return digest


def _tail(blob_size: int) -> BlobRange:
    length = min(blob_size, max(_TAIL_LEAST, min(_TAIL_MOST, blob_size // _TAIL_SHARE)))
    return BlobRange(blob_size - length, length)


def parse(text: Iterator[bytes], layer: Descriptor, found: FoundToc, limits: Limits, watch: Watch = unwatched) -> LayerIndex:
    """See :class:`als.formats.lazy.IndexedFormat`."""
    builder = IndexBuilder(Compression.GZIP, layer.size, found.payload_end, limits)
    contents = TocReader(builder, limits, bookkeeping=True, watch=watch).read(text)
    return builder.finish((Commitment(STARGZ_TOC, _committed(layer)),), contents.prefetch)


def text(found: FoundToc, limits: Limits) -> Iterator[bytes]:
    """The JSON within a compressed table of contents, in pieces.

    :raises BadImage: there is something else.
    :raises LimitExceeded: it expands too far.
    """
    bounds = text_limits(limits)
    codec = decompressor(Compression.GZIP, bounds)
    parser = TarParser(bounds)
    missing: int | None = None
    for start in range(0, len(found.data), _FEED):
        for raw in codec.feed(found.data[start : start + _FEED]):
            for event in parser.feed(raw):
                if isinstance(event, Begin):
                    if missing is not None or event.entry.path != TOC_NAME or event.entry.extents is not None:
                        raise BadImage("the table of contents is not what it is named", where="table of contents")
                    missing = event.entry.stored
                elif isinstance(event, Payload):
                    missing = (missing or 0) - len(event.data)
                    yield bytes(event.data)
    codec.finish()
    if missing != 0:
        raise BadImage("the table of contents is missing, or ends too early", where="table of contents")
