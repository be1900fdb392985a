"""What is known of a layer that can be read lazily: every name, where each file's bytes lie in the blob, how to verify them.

A blob of such a layer is a row of compressed *units* (gzip members or zstd frames, each of which can be decompressed alone) and
of gaps between them. A unit holds one chunk of one file or, where small files were packed together (eStargz with a minimum
chunk size), several chunks one after the other.

A layer may have a million files, so an index keeps columns of plain numbers (about 200 bytes a file with its path) and makes
the objects that its methods return when they are asked for. A list of objects would need five times as much.

Whom to trust for what: a chunk that has the sha256 stated here is what the index promises *at this place of this layer*. That
the chunks of a file together have the sha256 stated for the whole file is a promise too, of whoever wrote the index, and holds
only once all of the file was hashed. Until then the bytes of a chunk must never be served for another layer's file of the same
sha256, and what keeps chunks has to keep them under the chunk's own digest.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct

from als.formats.codecs import Compression
from als.model.digest import Digest
from als.model.entry import Entry, EntryType

KINDS = tuple(EntryType)
"""The types in the order of their numbers in a column."""
HAS_SHA256 = 1
HOLE = 2
SHA256_BYTES = 32
_SHA256 = Struct(f"{SHA256_BYTES}s")
_NO_DEVICE = (0, 0)


@dataclass(frozen=True, slots=True)
class Unit:
    """Bytes of the blob that can be decompressed alone: `length` of them from `offset` on."""

    number: int
    """Counts the layer's units in the order of the blob."""
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of a file's bytes."""

    offset: int
    """In the file."""
    size: int
    """Uncompressed bytes, at least 1."""
    unit: Unit
    inner_offset: int
    """Where the chunk begins in the unit's uncompressed bytes."""
    sha256: bytes | None
    """Of the uncompressed bytes; None for a hole."""
    hole: bool = False
    """All zeros: there is no need to fetch the unit (which is there for those who read the whole blob)."""

    @property
    def end(self) -> int:
        """Where the next chunk of the file begins."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class IndexedEntry:
    """One name with where its bytes are."""

    entry: Entry
    sha256: bytes | None
    """Of a whole regular file, where the index commits to it."""
    chunks: tuple[Chunk, ...]
    """Of a regular file that is not empty: in order, without gaps, `entry.size` bytes together."""


@dataclass(frozen=True, slots=True)
class Prefetch:
    """What the layer's builder says will be read first."""

    end: int = 0
    """The blob's bytes before this offset hold it all; 0 where there is nothing."""
    names: int = 0
    """So many of the first entries are what will be read, or directories on the way there."""
    unwanted: bool = False
    """The builder says that nothing should be fetched ahead of its use."""


@dataclass(frozen=True, slots=True)
class TarSplit:
    """Where the blob holds its own tar-split file: see :mod:`als.formats.zstdchunked.tarsplit`."""

    offset: int
    length: int
    digest: Digest
    """Of the `length` bytes as they are in the blob, which are zstd."""


@dataclass(frozen=True, slots=True)
class Commitment:
    """By what the manifest commits to the index: nothing of an index may be believed before this was checked."""

    annotation: str
    digest: Digest


@dataclass(slots=True)
class Columns:
    """An index's numbers; grown by :class:`als.formats.indexbuilder.IndexBuilder`, then never changed.

    One row for each entry, one for each chunk, one for each unit; the first three fields of a group tell its length.
    """

    text: bytes | bytearray = b""
    """Each entry's path and then its link target."""
    path_ends: array[int] = field(default_factory=lambda: array("I"))
    link_ends: array[int] = field(default_factory=lambda: array("I"))
    kinds: bytes | bytearray = b""
    modes: array[int] = field(default_factory=lambda: array("I"))
    uids: array[int] = field(default_factory=lambda: array("I"))
    gids: array[int] = field(default_factory=lambda: array("I"))
    mtimes: array[int] = field(default_factory=lambda: array("q"))
    mtimes_ns: array[int] = field(default_factory=lambda: array("I"))
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    flags: bytes | bytearray = b""
    sha256s: bytes | bytearray = b""
    chunk_ends: array[int] = field(default_factory=lambda: array("I"))
    """Where in the rows of chunks those of the next entry begin."""
    rdevs: dict[int, tuple[int, int]] = field(default_factory=dict)
    xattrs: dict[int, tuple[tuple[bytes, bytes], ...]] = field(default_factory=dict)

    chunk_offsets: array[int] = field(default_factory=lambda: array("Q"))
    chunk_inner: array[int] = field(default_factory=lambda: array("Q"))
    chunk_units: array[int] = field(default_factory=lambda: array("I"))
    chunk_flags: bytes | bytearray = b""
    chunk_sha256s: bytes | bytearray = b""

    unit_starts: array[int] = field(default_factory=lambda: array("Q"))
    unit_ends: array[int] = field(default_factory=lambda: array("Q"))


class LayerIndex:
    """The index of one layer; immutable. Entries are numbered in the order of the archive.

    :param columns: for who writes an index down; everybody else uses the methods.
    :param stream_gaps: ranges (offset, end) of the blob that hold nothing of the uncompressed stream, in order.
    """

    __slots__ = ("blob_size", "columns", "commitments", "compression", "prefetch", "stream_gaps", "tar_split")

    def __init__(
        self,
        columns: Columns,
        compression: Compression,
        blob_size: int,
        commitments: tuple[Commitment, ...],
        prefetch: Prefetch = Prefetch(),
        tar_split: TarSplit | None = None,
        stream_gaps: tuple[tuple[int, int], ...] = (),
    ) -> None:
        self.columns = columns
        self.compression = compression
        self.blob_size = blob_size
        self.commitments = commitments
        self.prefetch = prefetch
        self.tar_split = tar_split
        self.stream_gaps = stream_gaps

    # -- entries

    def __len__(self) -> int:
        return len(self.columns.kinds)

    def __getitem__(self, number: int) -> IndexedEntry:
        return IndexedEntry(self.entry(number), self.sha256(number), self.chunks(number))

    def __iter__(self) -> Iterator[IndexedEntry]:
        return map(self.__getitem__, range(len(self)))

    def entry(self, number: int) -> Entry:
        """What the index says of a name.

        :raises IndexError: there is no entry of this number.
        """
        columns = self.columns
        path_end = columns.path_ends[number]
        size = columns.sizes[number]
        return Entry(
            bytes(columns.text[columns.link_ends[number - 1] if number else 0 : path_end]),
            KINDS[columns.kinds[number]],
            columns.modes[number],
            columns.uids[number],
            columns.gids[number],
            columns.mtimes[number],
            columns.mtimes_ns[number],
            size,
            size,
            bytes(columns.text[path_end : columns.link_ends[number]]),
            columns.rdevs.get(number, (0, 0)),
            columns.xattrs.get(number, ()),
        )

    def entries(self) -> Iterator[Entry]:
        """What the index says of all names, in their order; takes less time than asking for each."""
        columns = self.columns
        text, rdevs, xattrs = columns.text, columns.rdevs, columns.xattrs
        ends = (range(len(self)), columns.path_ends, columns.link_ends)
        numbers = (columns.modes, columns.uids, columns.gids, columns.mtimes, columns.mtimes_ns, columns.sizes)
        start = 0
        for number, path_end, link_end, kind, mode, uid, gid, mtime, ns, size in zip(
            *ends, columns.kinds, *numbers, strict=True
        ):
            path, link = bytes(text[start:path_end]), bytes(text[path_end:link_end])
            rdev, own = rdevs.get(number, _NO_DEVICE), xattrs.get(number, ())
            yield Entry(path, KINDS[kind], mode, uid, gid, mtime, ns, size, size, link, rdev, own)
            start = link_end

    def size(self, number: int) -> int:
        """Bytes of an entry that is a regular file; 0 of any other."""
        return self.columns.sizes[number]

    def sha256(self, number: int) -> bytes | None:
        """The sha256 of a whole file, where the index commits to it."""
        columns = self.columns
        if not columns.flags[number] & HAS_SHA256:
            return None
        return bytes(columns.sha256s[number * SHA256_BYTES : (number + 1) * SHA256_BYTES])

    def sha256s(self) -> list[bytes | None]:
        """The same of all entries; takes less time than asking for each."""
        columns = self.columns
        rows = zip(_SHA256.iter_unpack(columns.sha256s), columns.flags, strict=True)
        return [digest if flags & HAS_SHA256 else None for (digest,), flags in rows]

    def content_name(self, number: int) -> bytes:
        """The name of a file's content: its sha256, or where the index has none for the whole file, its chunks' digest."""
        sha256 = self.sha256(number)
        return sha256 if sha256 is not None else self.chunks_digest(number)

    # -- chunks

    def chunks(self, number: int) -> tuple[Chunk, ...]:
        """The chunks of an entry; of large files there may be many."""
        return tuple(self._chunk(number, row) for row in self._rows(number))

    def chunks_within(self, number: int, offset: int, length: int) -> Iterator[Chunk]:
        """Those that hold any of `length` bytes of the file from `offset` on."""
        rows = self._rows(number)
        end = min(offset + length, self.columns.sizes[number])
        if offset >= end:
            return
        row = bisect_right(self.columns.chunk_offsets, offset, rows.start, rows.stop) - 1
        while row < rows.stop and self.columns.chunk_offsets[row] < end:
            yield self._chunk(number, row)
            row += 1

    def _rows(self, number: int) -> range:
        ends = self.columns.chunk_ends
        return range(ends[number - 1] if number else 0, ends[number])

    def _chunk(self, number: int, row: int) -> Chunk:
        columns = self.columns
        offset = columns.chunk_offsets[row]
        last = row + 1 == columns.chunk_ends[number]
        end = columns.sizes[number] if last else columns.chunk_offsets[row + 1]
        flags = columns.chunk_flags[row]
        return Chunk(
            offset,
            end - offset,
            self.unit(columns.chunk_units[row]),
            columns.chunk_inner[row],
            bytes(columns.chunk_sha256s[row * SHA256_BYTES : (row + 1) * SHA256_BYTES]) if flags & HAS_SHA256 else None,
            bool(flags & HOLE),
        )

    def chunks_digest(self, number: int) -> bytes:
        """A name (32 bytes) for the content of a file, made of the digests of its chunks.

        It stands in for the sha256 of the whole file where the index has none: equal names mean equal bytes.
        """
        sha256 = hashlib.sha256(b"als chunks\n")
        for chunk in self.chunks(number):
            sha256.update(chunk.size.to_bytes(8, "little") + (chunk.sha256 or bytes(SHA256_BYTES)))
        return sha256.digest()

    # -- units

    @property
    def units(self) -> int:
        """How many units hold bytes of files."""
        return len(self.columns.unit_starts)

    def unit(self, number: int) -> Unit:
        """The unit of this number."""
        offset = self.columns.unit_starts[number]
        return Unit(number, offset, self.columns.unit_ends[number] - offset)

    def chunks_in(self, unit: int) -> tuple[tuple[int, Chunk], ...]:
        """What a unit holds: numbers of entries and their chunks, in the order of the unit's bytes."""
        columns = self.columns
        row = bisect_left(columns.chunk_units, unit)
        number = bisect_right(columns.chunk_ends, row)
        found: list[tuple[int, Chunk]] = []
        while row < len(columns.chunk_units) and columns.chunk_units[row] == unit:
            while columns.chunk_ends[number] <= row:
                number += 1
            found.append((number, self._chunk(number, row)))
            row += 1
        return tuple(found)
