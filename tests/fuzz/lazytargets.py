"""The parsers of lazily readable layers: any bytes in; they return, or raise BadImage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from als.errors import BadImage
from als.formats.codecs import Compression, identify
from als.formats.estargz.footer import parse_footer as parse_estargz_footer
from als.formats.headercheck import headers_of
from als.formats.index import LayerIndex, Prefetch
from als.formats.indexbuilder import ChunkRow, IndexBuilder
from als.formats.indexfile import pack as pack_index
from als.formats.indexfile import unpack as unpack_index
from als.formats.indexrows import RowReader
from als.formats.lazy import add_entries, tree_of
from als.formats.toc.entries import TocReader
from als.formats.units import Bytes, read_unit, stream_ranges
from als.formats.zstdchunked.position import parse_annotations
from als.formats.zstdchunked.position import parse_footer as parse_zstd_footer
from als.formats.zstdchunked.tarsplit import parse as parse_tar_split
from als.formats.zstdchunked.tarsplit import zero_filled
from als.model.builder import TreeBuilder
from als.model.entry import Entry, EntryType
from als.model.tree import Content
from tests.fuzz.driver import Target
from tests.fuzz.inputs import DOCUMENT, LIMITS, WHITEOUTS, pieces

BETWEEN_RUNS = b"--next run--"


def toc(data: bytes) -> None:
    """A table of contents, and that its index holds what an index promises."""
    builder = IndexBuilder(Compression.GZIP, 1 << 20, 1000 << 10, LIMITS)
    reader = TocReader(builder, LIMITS, bookkeeping=len(data) % 2 == 0)
    contents = reader.read(pieces(data))
    found = builder.finish((), contents.prefetch)
    end = 0
    for number in range(found.units):
        unit = found.unit(number)
        assert end <= unit.offset < unit.offset + unit.length <= 1000 << 10
        end = unit.offset + unit.length
        inner = 0
        for _, chunk in found.chunks_in(number):
            assert inner <= chunk.inner_offset
            inner = chunk.inner_offset + chunk.size
    for each in found:
        assert sum(chunk.size for chunk in each.chunks) == (each.entry.size if each.chunks else 0)
        assert all(chunk.hole or chunk.sha256 for chunk in each.chunks)
    assert sum(each.length for each in stream_ranges(found)) == 1 << 20
    tree_of(found, LIMITS)


def index_file(data: bytes) -> None:
    """An index that a worker hands over: whatever is accepted, no method of it fails."""
    found = unpack_index(data)
    for number in range(found.units):
        found.chunks_in(number)
    ranges = list(stream_ranges(found))
    assert all(each.length > 0 for each in ranges)
    assert not ranges or ranges[-1].offset + ranges[-1].length <= found.blob_size
    for number in range(len(found)):
        assert sum(chunk.size for chunk in found.chunks(number)) == found.size(number)
        assert len(list(found.chunks_within(number, 0, 1 << 62))) == len(found.chunks(number))
        found.chunks_digest(number)
    unpack_index(b"".join(pack_index(found)))
    tree_of(found, LIMITS)


def index_rows(data: bytes) -> None:
    """Runs of an index that a worker writes to who makes the image: two of them, and the tree of what is accepted."""
    reader, builder, shared = RowReader(), TreeBuilder(LIMITS), dict[bytes, Content]()
    first, _, second = data.partition(BETWEEN_RUNS)
    for body in (first, second):
        found = reader.read(body)
        assert len(list(found)) == len(found)
        add_entries(builder, found, shared)
    builder.finish()


def repair_index(data: bytes) -> bytes:
    """Set the digest at the end."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def toc_places(data: bytes) -> None:
    """Footers and annotations that tell where a table of contents is."""
    refused: list[BadImage] = []
    text, _, tail = data.partition(b"\n")
    size = max(1000, len(tail))
    for read in (
        lambda: parse_estargz_footer(tail[-51:], size),
        lambda: parse_zstd_footer(tail[-72:], size),
        lambda: parse_annotations(text.decode("latin-1"), None, size),
    ):
        try:
            read()
        except BadImage as error:
            refused.append(error)
    if len(refused) == 3:
        raise refused[0]


def tar_split(data: bytes) -> None:
    """A tar-split file, and the tar headers in it."""
    for _ in headers_of(zero_filled(parse_tar_split(pieces(data), LIMITS)), LIMITS):
        pass


def unit(data: bytes) -> None:
    """A unit of either compression that should have two chunks, each of 100 times the same letter."""
    kind = identify(data[:4])
    if kind is Compression.NONE:
        raise BadImage("no unit")
    for _ in range(2):
        seen = 0
        for event in read_unit(_two_chunks(kind, len(data)), 0, pieces(data), whole=True):
            seen += len(event.data) if isinstance(event, Bytes) else 0
        assert seen == 200


def _two_chunks(kind: Compression, length: int) -> LayerIndex:
    builder = IndexBuilder(kind, length + 1, length + 1, LIMITS)
    for letter, inner in ((b"a", 10), (b"b", 300)):
        sha256 = hashlib.sha256(100 * letter).digest()
        entry = Entry(letter, EntryType.FILE, size=100, stored=100)
        builder.add(entry, sha256, [ChunkRow(0, 100, 1, inner, sha256)], 0 if letter == b"a" else length + 1)
    return builder.finish((), Prefetch())


def lazy_targets() -> Iterable[Target]:
    rows = (
        b'"offset":',
        b'"chunkSize":',
        b'"innerOffset":',
        b'{"type":"chunk",',
        b'"digest":null,',
        b"../",
        b"9007199254740993",
    )
    yield Target("toc", toc, (BadImage,), (*DOCUMENT, *WHITEOUTS, *rows))
    yield Target(
        "toc-places", toc_places, (BadImage,), (b"STARGZ", b"GNUlInUx", b"GnUlInUx", b"100:10:5:1", b"\n", b"\xff" * 8)
    )
    yield Target("index-rows", index_rows, (BadImage,), (BETWEEN_RUNS, bytes(4), b"\1\0\0\0", b"\xff" * 4))
    yield Target("index-file", index_file, (BadImage,), (b"ALSIDX1\n", bytes(8), b"\1" + bytes(7)), repair_index)
    yield Target(
        "tar-split", tar_split, (BadImage,), (*DOCUMENT, b'{"type":2,"payload":"', b'{"type":1,"size":', b"AAAA" * 170)
    )
    yield Target("unit", unit, (BadImage,), (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"))
