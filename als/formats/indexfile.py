"""An index as bytes: how a worker hands it over, and how it is kept for the next start.

The file is ``ALSIDX1\\n``, a u32 length and so many bytes of JSON (what the index says of the layer as a whole), the columns
one after the other (a u64 length of each, then its bytes), and the sha256 of all that. Numbers are little endian. Reading and
writing are copies of whole columns: a million entries take a second, where reading the table of contents again takes twenty.

Who reads an index that an unprivileged worker wrote trusts it no more than the worker: :func:`unpack` checks everything that
an index relies on (lengths, orders, ranges), so that no method of it can fail or leave the blob. Whether it is what the
manifest commits to only the worker has seen; a wrong index is found out when a chunk or the DiffID is verified.
"""

from __future__ import annotations

import hashlib
import json
import operator
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import compress, islice

from als.errors import BadImage
from als.formats.codecs import Compression
from als.formats.index import HAS_SHA256, HOLE, KINDS, SHA256_BYTES, Columns, Commitment, LayerIndex, Prefetch, TarSplit
from als.model.digest import Digest
from als.model.document import Fields, parse_object
from als.model.entry import EntryType

MAGIC = b"ALSIDX1\n"
_HEADER_MAX = 1 << 16
_RDEV = struct.Struct("<III")
_XATTR = struct.Struct("<III")
_FILE = KINDS.index(EntryType.FILE)


def pack(index: LayerIndex) -> Iterator[bytes]:
    """The file, in pieces."""
    digest = hashlib.sha256()
    for piece in _pieces(index):
        digest.update(piece)
        yield piece
    yield digest.digest()


def _pieces(index: LayerIndex) -> Iterator[bytes]:
    header: dict[str, object] = {
        "compression": index.compression.value,
        "blobSize": index.blob_size,
        "commitments": [{"annotation": each.annotation, "digest": str(each.digest)} for each in index.commitments],
        "prefetch": {"end": index.prefetch.end, "names": index.prefetch.names, "unwanted": index.prefetch.unwanted},
        "streamGaps": [{"start": start, "end": end} for start, end in index.stream_gaps],
    }
    if index.tar_split is not None:
        split = index.tar_split
        header["tarSplit"] = {"offset": split.offset, "length": split.length, "digest": str(split.digest)}
    text = json.dumps(header, separators=(",", ":")).encode()
    yield MAGIC + struct.pack("<I", len(text)) + text
    columns = index.columns
    for each in fields(Columns):
        value = getattr(columns, each.name)
        if each.name == "rdevs":
            value = pack_rdevs(columns.rdevs)
        elif each.name == "xattrs":
            value = pack_xattrs(columns.xattrs)
        yield struct.pack("<Q", len(value) * value.itemsize if isinstance(value, array) else len(value))
        yield little(value).tobytes() if isinstance(value, array) else bytes(value)


def pack_rdevs(rdevs: Mapping[int, tuple[int, int]]) -> bytes:
    """Device numbers by the entry's number."""
    return b"".join(_RDEV.pack(number, *rdev) for number, rdev in rdevs.items())


def pack_xattrs(xattrs: Mapping[int, tuple[tuple[bytes, bytes], ...]]) -> bytes:
    """Xattrs by the entry's number."""
    return b"".join(
        _XATTR.pack(number, len(name), len(value)) + name + value for number, pairs in xattrs.items() for name, value in pairs
    )


def little(column: array[int]) -> array[int]:
    """A column as it is written, and the other way round."""
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column


def unpack(data: bytes) -> LayerIndex:
    """Read the file.

    :raises BadImage: it is torn, or no index.
    """
    view = memoryview(data)
    end = len(view) - SHA256_BYTES
    if end < 0 or view[: len(MAGIC)] != MAGIC or hashlib.sha256(view[:end]).digest() != view[end:]:
        raise _damaged("it is torn")
    reader = Reader(view[len(MAGIC) : end])
    header = parse_object(bytes(reader.take(reader.number("<I"))), what="index file", limit=_HEADER_MAX)
    columns = Columns()
    for each in fields(Columns):
        raw = reader.take(reader.number("<Q"))
        column = getattr(columns, each.name)
        if each.name == "rdevs":
            columns.rdevs = unpack_rdevs(raw)
        elif each.name == "xattrs":
            columns.xattrs = unpack_xattrs(raw)
        elif isinstance(column, array):
            if len(raw) % column.itemsize:
                raise _damaged("a column of no whole number of rows")
            column.frombytes(raw)
            setattr(columns, each.name, little(column))
        else:
            setattr(columns, each.name, bytes(raw))
    reader.finish()
    index = _index(header, columns)
    _check(index)
    return index


class Reader:
    """Takes an index's bytes apart."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def take(self, length: int) -> memoryview:
        """The next bytes.

        :raises BadImage: there are fewer.
        """
        if length > len(self._view):
            raise _damaged("it ends too early")
        found, self._view = self._view[:length], self._view[length:]
        return found

    def number(self, form: str) -> int:
        """The next number, of a form of struct's.

        :raises BadImage: there is none.
        """
        value = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        assert isinstance(value, int)
        return value

    def finish(self) -> None:
        """
        :raises BadImage: something is left.
        """
        if self._view:
            raise _damaged("something follows")


def unpack_rdevs(raw: memoryview) -> dict[int, tuple[int, int]]:
    """What :func:`pack_rdevs` made.

    :raises BadImage: it did not make that.
    """
    if len(raw) % _RDEV.size:
        raise _damaged("a column of no whole number of rows")
    return {number: (major, minor) for number, major, minor in _RDEV.iter_unpack(raw)}


def unpack_xattrs(raw: memoryview) -> dict[int, tuple[tuple[bytes, bytes], ...]]:
    """What :func:`pack_xattrs` made.

    :raises BadImage: it did not make that.
    """
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    reader = Reader(raw)
    position = 0
    while position < len(raw):
        number, name_length, length = _XATTR.unpack(reader.take(_XATTR.size))
        pair = (bytes(reader.take(name_length)), bytes(reader.take(length)))
        found.setdefault(number, []).append(pair)
        position += _XATTR.size + name_length + length
    return {number: tuple(pairs) for number, pairs in found.items()}


def _index(header: Fields, columns: Columns) -> LayerIndex:
    split = header.optional_child("tarSplit")
    prefetch = header.child("prefetch")
    compression = {each.value: each for each in Compression}.get(header.text("compression"))
    if compression is None:
        raise _damaged("an unknown compression")
    return LayerIndex(
        columns,
        compression,
        header.integer("blobSize"),
        tuple(
            Commitment(each.text("annotation"), Digest.parse(each.text("digest"))) for each in header.children("commitments")
        ),
        Prefetch(prefetch.integer("end"), prefetch.integer("names"), prefetch.boolean("unwanted")),
        None
        if split is None
        else TarSplit(split.integer("offset"), split.integer("length"), Digest.parse(split.text("digest"))),
        tuple((each.integer("start"), each.integer("end")) for each in header.children("streamGaps")),
    )


def _check(index: LayerIndex) -> None:
    """Refuse what :class:`als.formats.indexbuilder.IndexBuilder` would not have made."""
    columns = index.columns
    entries, chunks, units = len(columns.kinds), len(columns.chunk_offsets), len(columns.unit_starts)
    per_entry = (columns.path_ends, columns.link_ends, columns.modes, columns.uids, columns.gids, columns.mtimes)
    lengths = {len(each) for each in (*per_entry, columns.mtimes_ns, columns.sizes, columns.flags, columns.chunk_ends)}
    per_chunk = {len(columns.chunk_inner), len(columns.chunk_units), len(columns.chunk_flags)}
    if (
        lengths != {entries}
        or per_chunk != {chunks}
        or len(columns.unit_ends) != units
        or len(columns.sha256s) != entries * SHA256_BYTES
        or len(columns.chunk_sha256s) != chunks * SHA256_BYTES
        or index.prefetch.names > entries
        or any(number >= entries for number in (*columns.rdevs, *columns.xattrs))
    ):
        raise _damaged("columns of different lengths")
    if not entries_can_be(columns) or not _rises(columns.chunk_ends, 0, chunks):
        raise _damaged("numbers out of order")
    _check_units(index)
    _check_chunks(columns)


def entries_can_be(columns: Columns) -> bool:
    """Whether entries can be made of the columns, which have as many rows each."""
    return (
        max(columns.kinds, default=0) < len(KINDS)
        and max(columns.flags, default=0) <= HAS_SHA256
        and max(columns.sizes, default=0) < 1 << 63
        and _text_is_whole(columns)
    )


def _text_is_whole(columns: Columns) -> bool:
    """Paths and link targets take turns and fill the text."""
    return (
        all(map(operator.le, columns.path_ends, columns.link_ends))
        and all(map(operator.le, columns.link_ends, islice(columns.path_ends, 1, None)))
        and (columns.link_ends[-1] if columns.link_ends else 0) == len(columns.text)
    )


def _rises(column: array[int], least: int, last: int) -> bool:
    """From at least `least` up to exactly `last`, never falling."""
    if not column:
        return last == least
    return column[0] >= least and column[-1] == last and all(map(operator.le, column, islice(column, 1, None)))


def _check_units(index: LayerIndex) -> None:
    """Units lie in the blob one after the other, and so do the ranges of the stream's gaps."""
    columns = index.columns
    if not (
        all(map(operator.lt, columns.unit_starts, columns.unit_ends))
        and all(map(operator.le, columns.unit_ends, islice(columns.unit_starts, 1, None)))
        and (columns.unit_ends[-1] if columns.unit_ends else 0) <= index.blob_size
    ):
        raise _damaged("units that overlap")
    position = 0
    for start, end in index.stream_gaps:
        if not position <= start < end <= index.blob_size:
            raise _damaged("gaps that overlap")
        position = end
    split = index.tar_split
    if split is not None and split.offset + split.length > index.blob_size:
        raise _damaged("a tar-split outside of the blob")


def _check_chunks(columns: Columns) -> None:
    """Chunks fill their files, and every unit has one."""
    used, units = columns.chunk_units, len(columns.unit_starts)
    if (used or units) and not (used and units and used[0] == 0 and used[-1] == units - 1):
        raise _damaged("units without chunks")
    if any(other - one not in (0, 1) for one, other in zip(used, islice(used, 1, None), strict=False)):
        raise _damaged("chunks out of order")
    if not {HAS_SHA256, HOLE}.issuperset(columns.chunk_flags):
        raise _damaged("chunks without digests")
    starts = [0, *columns.chunk_ends[:-1]]
    counts = list(map(operator.sub, columns.chunk_ends, starts))
    if list(map(bool, counts)) != list(map(bool, columns.sizes)) or set(compress(columns.kinds, counts)) - {_FILE}:
        raise _damaged("a file without chunks")
    offsets = columns.chunk_offsets
    # Of a million files most have one chunk.
    if any(map(offsets.__getitem__, compress(starts, counts))):
        raise _damaged("chunks that do not fill their file")
    for number in (number for number, count in enumerate(counts) if count > 1):
        first, last = starts[number], columns.chunk_ends[number]
        if offsets[last - 1] >= columns.sizes[number]:
            raise _damaged("chunks that do not fill their file")
        if any(map(operator.ge, offsets[first : last - 1], offsets[first + 1 : last])):
            raise _damaged("chunks that overlap")
    if max(columns.chunk_inner, default=0) >= 1 << 63:
        raise _damaged("chunks that overlap in their unit")
    if len(used) > units:
        _check_inner(columns)


def _check_inner(columns: Columns) -> None:
    """The chunks of a unit follow each other."""
    ends = iter(columns.chunk_ends)
    number, last = 0, next(ends, 0)
    unit, inner = -1, 0
    for row, (of_unit, begins) in enumerate(zip(columns.chunk_units, columns.chunk_inner, strict=True)):
        while row >= last:
            number, last = number + 1, next(ends)
        stop = columns.sizes[number] if row + 1 == last else columns.chunk_offsets[row + 1]
        if of_unit == unit and begins < inner:
            raise _damaged("chunks that overlap in their unit")
        unit, inner = of_unit, begins + stop - columns.chunk_offsets[row]


def _damaged(what: str) -> BadImage:
    return BadImage(f"not an index: {what}", where="index file")
