"""Reads a zstd:chunked layer's table of contents (containers/storage, ``pkg/chunked/compression_linux.go``).

It is JSON in a zstd frame within a skippable frame. The manifest commits to the sha256 of the *compressed* bytes, with an
annotation that has two names: podman's ``io.github.containers...`` and, of old podman and of stargz-snapshotter,
``io.containers...``. stargz-snapshotter's layers also have the annotation of eStargz, with the sha256 of the JSON; where there
is one it is checked as well.

The tar-split is believed only where the table of contents states its digest, as containers/storage does.

The stream whose digest is the DiffID is the blob decompressed; the skippable frames are not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from als.errors import BadImage, LimitExceeded
from als.formats.codecs import Compression, decompressor
from als.formats.index import Commitment, LayerIndex, TarSplit
from als.formats.indexbuilder import IndexBuilder
from als.formats.indexrows import Watch, unwatched
from als.formats.lazy import BlobRange, FoundToc, TocDigests, TocFinder, fetched
from als.formats.toc.entries import Contents, TocReader
from als.formats.toc.text import text_limits
from als.formats.zstdchunked.position import FRAME_HEADER, LONGEST, SKIPPABLE, Position, parse_annotations, parse_footer
from als.model.digest import Digest
from als.model.limits import Limits
from als.model.manifest import STARGZ_TOC, ZSTD_CHUNKED_TOC, Descriptor

CHECKSUM_OLD = "io.containers.zstd-chunked.manifest-checksum"
_POSITIONS = {
    ZSTD_CHUNKED_TOC: "io.github.containers.zstd-chunked.manifest-position",
    CHECKSUM_OLD: "io.containers.zstd-chunked.manifest-position",
}
_TAR_SPLIT = "io.github.containers.zstd-chunked.tarsplit-position"
_FEED = 1 << 18


def digests(layer: Descriptor) -> TocDigests:
    """See :class:`als.formats.lazy.IndexedFormat`."""
    compressed, *others = (commitment.digest for commitment in _commitments(layer))
    return TocDigests(compressed, *others)


def find(layer: Descriptor, limits: Limits) -> TocFinder:
    """See :class:`als.formats.lazy.IndexedFormat`."""
    position = _annotated(layer, _commitments(layer)[0].annotation)
    if position is None:
        if not layer.size:
            raise BadImage("an empty blob", where=f"layer {layer.digest}")
        length = min(layer.size, LONGEST)
        request = BlobRange(layer.size - length, length)
        position = parse_footer(fetched(request, (yield request)), layer.size)
    part, split = position.toc, position.tar_split
    if part.length > limits.toc_bytes or part.text_length > limits.toc_text_bytes:
        raise LimitExceeded(f"a table of contents of {part.length} bytes", where=f"layer {layer.digest}")
    request = BlobRange(part.offset - FRAME_HEADER, part.length + FRAME_HEADER, FRAME_HEADER)
    frame = fetched(request, (yield request))
    if not frame.startswith(SKIPPABLE + part.length.to_bytes(4, "little")):
        raise BadImage("the table of contents is not in a frame of its own", where=f"layer {layer.digest}")
    return FoundToc(
        frame[FRAME_HEADER:],
        min(each.offset for each in (part, split) if each is not None) - FRAME_HEADER,
        (part.offset - FRAME_HEADER, part.end),
        part.text_length,
        None if split is None else (split.offset, split.length, split.text_length),
    )


def _commitments(layer: Descriptor) -> tuple[Commitment, ...]:
    """The first is that of the compressed bytes."""
    found = [key for key in _POSITIONS if key in layer.annotations]
    if not found:
        raise BadImage("the manifest does not commit to a table of contents", where=f"layer {layer.digest}")
    if len({layer.annotations[key] for key in found}) > 1 or (found[0] == ZSTD_CHUNKED_TOC and STARGZ_TOC in layer.annotations):
        raise BadImage("two annotations commit to different tables of contents", where=f"layer {layer.digest}")
    keys = [found[0], *(key for key in (STARGZ_TOC,) if key in layer.annotations)]
    return tuple(Commitment(key, Digest.parse(layer.annotations[key])) for key in keys)


def _annotated(layer: Descriptor, checksum: str) -> Position | None:
    toc = layer.annotations.get(_POSITIONS[checksum])
    if toc is None:
        return None
    return parse_annotations(toc, layer.annotations.get(_TAR_SPLIT), layer.size)


def parse(text: Iterator[bytes], layer: Descriptor, found: FoundToc, limits: Limits, watch: Watch = unwatched) -> LayerIndex:
    """See :class:`als.formats.lazy.IndexedFormat`."""
    builder = IndexBuilder(Compression.ZSTD, layer.size, found.payload_end, limits)
    contents = TocReader(builder, limits, bookkeeping=STARGZ_TOC in layer.annotations, watch=watch).read(text)
    split = _tar_split(contents, found, limits, f"layer {layer.digest}")
    gaps = () if found.gap is None else (found.gap,)
    return builder.finish(_commitments(layer), contents.prefetch, split, gaps)


def _tar_split(contents: Contents, found: FoundToc, limits: Limits, where: str) -> TarSplit | None:
    if not contents.tar_split_digest:
        return None
    if found.tar_split is None:
        raise BadImage("the table of contents has a tar-split's digest, but there is no tar-split", where=where)
    offset, length, text_length = found.tar_split
    if length > limits.toc_bytes or text_length > limits.toc_text_bytes:
        raise LimitExceeded(f"a tar-split of {length} bytes", where=where)
    return TarSplit(offset, length, Digest.parse(contents.tar_split_digest))


def text(found: FoundToc, limits: Limits) -> Iterator[bytes]:
    """The JSON of a compressed table of contents, in pieces.

    :raises BadImage: it is damaged, or not as long as it is said to be.
    :raises LimitExceeded: it expands too far.
    """
    codec = decompressor(Compression.ZSTD, text_limits(limits))
    length = 0
    for start in range(0, len(found.data), _FEED):
        for piece in codec.feed(found.data[start : start + _FEED]):
            length += len(piece)
            if length > (found.text_length or 0):
                raise _wrong_length()
            yield piece
    codec.finish()
    if length != found.text_length:
        raise _wrong_length()


def _wrong_length() -> BadImage:
    return BadImage("the table of contents has another length than is said", where="table of contents")
