"""Collects a :class:`~als.formats.index.LayerIndex` and holds whatever an index says to what can be true of a layer.

Refused is what two readers could read differently, and what no writer of these formats makes: names given twice (so does
containers/storage, ``ensureTOCMatchesTarSplit``), names with ``..``, chunks that overlap, leave gaps or run out of order,
units that overlap or leave the blob. Nobody loses an image by it: a layer whose index is refused can still be read whole.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from als.errors import BadImage, LimitExceeded, Unsupported
from als.formats.codecs import Compression
from als.formats.index import (
    HAS_SHA256,
    HOLE,
    KINDS,
    SHA256_BYTES,
    Columns,
    Commitment,
    LayerIndex,
    Prefetch,
    TarSplit,
)
from als.formats.plainrows import PlainRows
from als.model.entry import Entry, EntryType
from als.model.limits import Limits
from als.model.paths import name_of, names_of, show

EMPTY_SHA256 = hashlib.sha256(b"").digest()
REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()
"""What Go's JSON encoder writes for bytes of a name that are no UTF-8: the true name is lost."""
_SHA256 = struct.Struct(f"{SHA256_BYTES}s")
_FILE = EntryType.FILE
_NUMBERS = {kind: number.to_bytes() for number, kind in enumerate(KINDS)}
_HAS_SHA256, _HOLE = HAS_SHA256.to_bytes(), HOLE.to_bytes()
_NO_SHA256 = bytes(SHA256_BYTES)
_UINT32 = 1 << 32
_INT64 = 1 << 63


class ChunkRow(NamedTuple):
    """A chunk as an index states it; nothing has been checked."""

    offset: int
    """In the file."""
    size: int
    """Uncompressed bytes; 0: up to the end of the file."""
    unit: int
    """Where the unit begins in the blob."""
    inner_offset: int
    sha256: bytes | None
    hole: bool = False


class IndexBuilder:
    """Takes the entries of one layer in the archive's order; used once.

    :param payload_end: bytes of the blob before its own index; no unit lies beyond.
    """

    def __init__(self, compression: Compression, blob_size: int, payload_end: int, limits: Limits) -> None:
        if not 0 <= payload_end <= blob_size < _INT64:
            raise BadImage(f"the index does not lie within the blob of {blob_size} bytes")
        self._compression = compression
        self._blob_size = blob_size
        self._payload_end = payload_end
        self._limits = limits
        self._columns = Columns(text=bytearray(), kinds=bytearray(), flags=bytearray(), sha256s=bytearray())
        self._columns.chunk_flags, self._columns.chunk_sha256s = bytearray(), bytearray()
        self._names: set[bytes] = set()
        self._metadata = 0
        self._total = 0
        self._inner_end = 0
        """Uncompressed bytes of the last unit that chunks have taken."""

    def __len__(self) -> int:
        return len(self._columns.kinds)

    @property
    def columns(self) -> Columns:
        """What there is of the index; only its columns of entries are as they will be."""
        return self._columns

    def add(self, entry: Entry, sha256: bytes | None = None, rows: Sequence[ChunkRow] = (), end: int = 0) -> None:
        """Take the next entry.

        :param rows: of a regular file that is not empty.
        :param end: where the last of its units ends in the blob; 0 where the index leaves that to what follows.
        :raises BadImage: it cannot be true.
        :raises LimitExceeded: there is more of something than the limits allow.
        """
        self._check_name(entry.path)
        self._weigh(entry)
        self._append(entry, self._add_chunks(entry, sha256, rows, end) if entry.type is _FILE else None)

    def add_plain(self, rows: PlainRows) -> bool:
        """Take entries, all of them or none: False where one is not as :meth:`add` would take it, which then says why."""
        try:
            new = {name for name in names_of(rows.paths) if name is not None}
        except BadImage:
            return False
        # Fewer: one is given twice, or is none.
        if len(new) < len(rows.paths) or not self._names.isdisjoint(new):
            return False
        if not (self._fit(rows) and rows.fill() and self._follow(rows)):
            return False
        self._names |= new
        self._total += sum(rows.sizes)
        self._append_plain(rows)
        return True

    def finish(
        self,
        commitments: tuple[Commitment, ...],
        prefetch: Prefetch,
        tar_split: TarSplit | None = None,
        stream_gaps: tuple[tuple[int, int], ...] = (),
    ) -> LayerIndex:
        """All entries were added.

        :raises BadImage: the last unit runs into the index, or files with the same digest have different sizes.
        """
        columns = self._columns
        if columns.unit_starts:
            if not columns.unit_ends[-1]:
                columns.unit_ends[-1] = self._payload_end
            if not columns.unit_starts[-1] < columns.unit_ends[-1] <= self._payload_end:
                raise BadImage("a chunk lies beyond the end of the layer's data")
        self._names.clear()
        index = LayerIndex(columns, self._compression, self._blob_size, commitments, prefetch, tar_split, stream_gaps)
        _check_sizes(index)
        return index

    # -- entries

    def _check_name(self, path: bytes) -> None:
        if len(self._columns.kinds) >= self._limits.entries:
            raise LimitExceeded(f"the layer holds more than {self._limits.entries} entries", where=show(path))
        if len(path) > self._limits.path_bytes:
            raise LimitExceeded(f"a path is longer than {self._limits.path_bytes} bytes", where=show(path))
        name = name_of(path)
        if name is None:
            raise BadImage("a name with '..' in it", where=show(path))
        if name in self._names:
            raise BadImage("a name is given twice", where=show(path))
        self._names.add(name)

    def _weigh(self, entry: Entry) -> None:
        path, linkname = entry.path, entry.linkname
        size = len(path) + len(linkname)
        for name, value in entry.xattrs:
            size += len(name) + len(value)
            if REPLACEMENT in name:
                raise _lost(entry)
        if not (path.isascii() and linkname.isascii()) and (REPLACEMENT in path or REPLACEMENT in linkname):
            raise _lost(entry)
        self._metadata += size
        if self._metadata > self._limits.metadata_bytes:
            raise LimitExceeded(f"the layer has more than {self._limits.metadata_bytes} bytes of metadata")

    def _append(self, entry: Entry, sha256: bytes | None) -> None:
        path, kind, mode, uid, gid, mtime, mtime_ns, size, _, linkname, rdev, xattrs, _ = entry
        if not (0 <= uid < _UINT32 and 0 <= gid < _UINT32):
            raise BadImage(f"an owner that cannot exist, {uid}:{gid}", where=show(path))
        if not (0 <= mode < _UINT32 and 0 <= size < _INT64 and -_INT64 <= mtime < _INT64):
            raise BadImage("a mode, size or time that cannot be", where=show(path))
        columns = self._columns
        number = len(columns.kinds)
        if rdev != (0, 0):
            if not all(0 <= each < _UINT32 for each in rdev):
                raise BadImage("a device number that cannot be", where=show(path))
            columns.rdevs[number] = rdev
        columns.text += path
        columns.path_ends.append(len(columns.text))
        columns.text += linkname
        columns.link_ends.append(len(columns.text))
        columns.kinds += _NUMBERS[kind]
        columns.modes.append(mode)
        columns.uids.append(uid)
        columns.gids.append(gid)
        columns.mtimes.append(mtime)
        columns.mtimes_ns.append(mtime_ns)
        columns.sizes.append(size)
        columns.flags += b"\1" if sha256 is not None else b"\0"
        columns.sha256s += sha256 or _NO_SHA256
        columns.chunk_ends.append(len(columns.chunk_offsets))
        if xattrs:
            columns.xattrs[number] = xattrs

    # -- many entries

    def _fit(self, rows: PlainRows) -> bool:
        """Whether these are within the limits, and names and owners are such as there can be."""
        columns, limits = self._columns, self._limits
        text = b"".join((*rows.paths, *rows.links))
        if not text.isascii() and REPLACEMENT in text:
            return False
        return (
            len(columns.kinds) + len(rows.paths) <= limits.entries
            and max(map(len, rows.paths), default=0) <= limits.path_bytes
            and self._metadata + len(text) <= limits.metadata_bytes
            and max((*rows.modes, *rows.uids, *rows.gids), default=0) < _UINT32
            and max(rows.sizes, default=0) <= limits.file_bytes
            and self._total + sum(rows.sizes) <= limits.layer_bytes
            and len(columns.chunk_offsets) + len(rows.units) <= limits.chunks
        )

    def _follow(self, rows: PlainRows) -> bool:
        starts, ends = self._columns.unit_starts, self._columns.unit_ends
        return rows.follow(max(starts[-1] + 1, ends[-1]) if starts else 1, self._payload_end)

    def _append_plain(self, rows: PlainRows) -> None:
        columns = self._columns
        texts = list(itertools.chain.from_iterable(zip(rows.paths, rows.links, strict=True)))
        ends = list(itertools.accumulate(map(len, texts), initial=len(columns.text)))
        columns.text += b"".join(texts)
        self._metadata += ends[-1] - ends[0]
        columns.path_ends.extend(ends[1::2])
        columns.link_ends.extend(ends[2::2])
        columns.kinds += b"".join(map(_NUMBERS.__getitem__, rows.kinds))
        columns.modes.extend(rows.modes)
        columns.uids.extend(rows.uids)
        columns.gids.extend(rows.gids)
        columns.mtimes.extend([mtime for mtime, _ in rows.mtimes])
        columns.mtimes_ns.extend([nanoseconds for _, nanoseconds in rows.mtimes])
        columns.sizes.extend(rows.sizes)
        columns.flags += bytes([kind is _FILE for kind in rows.kinds])
        digests, chunks = iter(rows.digests), iter(rows.counts)
        columns.sha256s += b"".join(
            next(digests) if size else EMPTY_SHA256 if kind is _FILE else _NO_SHA256
            for kind, size in zip(rows.kinds, rows.sizes, strict=True)
        )
        counts = (next(chunks) if size else 0 for size in rows.sizes)
        columns.chunk_ends.extend(list(itertools.accumulate(counts, initial=len(columns.chunk_offsets)))[1:])
        self._append_chunks(rows)

    def _append_chunks(self, rows: PlainRows) -> None:
        columns, count = self._columns, len(rows.units)
        if not count:
            return
        if columns.unit_ends and not columns.unit_ends[-1]:
            columns.unit_ends[-1] = rows.units[0]
        first = len(columns.unit_starts)
        columns.chunk_offsets.extend(rows.offsets)
        columns.chunk_inner.extend([0] * count)
        columns.chunk_units.extend(range(first, first + count))
        columns.chunk_flags += b"".join(map((_HAS_SHA256, _HOLE).__getitem__, rows.holes))
        columns.chunk_sha256s += b"".join(
            _NO_SHA256 if hole else sha256 for sha256, hole in zip(rows.sha256s, rows.holes, strict=True)
        )
        columns.unit_starts.extend(rows.units)
        following = (*rows.units[1:], 0)
        columns.unit_ends.extend([end or after for end, after in zip(rows.ends, following, strict=True)])
        size = next(size for size in reversed(rows.sizes) if size)
        self._inner_end = size - rows.offsets[-1]

    # -- chunks

    def _add_chunks(self, entry: Entry, sha256: bytes | None, rows: Sequence[ChunkRow], end: int) -> bytes | None:
        """Returns the file's sha256, which that of its only chunk is as well."""
        size, limits = entry.size, self._limits
        if size > limits.file_bytes:
            raise LimitExceeded(f"a file of {size} bytes", where=show(entry.path))
        self._total += size
        if self._total > limits.layer_bytes:
            raise LimitExceeded(f"the layer holds more than {limits.layer_bytes} bytes", where=show(entry.path))
        if size <= 0:
            if size < 0 or rows or sha256 not in (None, EMPTY_SHA256):
                raise BadImage("an empty file with content", where=show(entry.path))
            return EMPTY_SHA256
        if not rows:
            raise BadImage("a file without chunks", where=show(entry.path))
        if len(self._columns.chunk_offsets) + len(rows) > limits.chunks:
            raise LimitExceeded(f"the layer has more than {limits.chunks} chunks", where=show(entry.path))
        if len(rows) == 1 and not rows[0].hole:
            promised = rows[0].sha256 or sha256
            if sha256 is not None and sha256 != promised:
                raise BadImage("a file and its only chunk have different digests", where=show(entry.path))
            self._add_chunk(entry, rows[0], 0, size, promised)
            sha256 = promised
        else:
            position = 0
            for row, following in zip(rows, [*rows[1:], None], strict=True):
                stop = size if following is None else following.offset
                self._add_chunk(entry, row, position, stop, row.sha256)
                position = stop
        if end:
            self._end_unit(entry, end)
        return sha256

    def _add_chunk(self, entry: Entry, row: ChunkRow, start: int, stop: int, sha256: bytes | None) -> None:
        """Take the chunk that has to reach from `start` to `stop` of the file."""
        offset, size, unit, inner_offset, _, hole = row
        size = size or entry.size - offset
        if offset != start or start + size != stop or size <= 0:
            raise BadImage("the chunks of a file overlap, or leave gaps", where=show(entry.path))
        if not hole and sha256 is None:
            raise Unsupported("a chunk without a digest", where=show(entry.path), hint="the layer can only be read whole")
        self._place(entry, unit, inner_offset, size)
        columns = self._columns
        columns.chunk_offsets.append(start)
        columns.chunk_inner.append(inner_offset)
        columns.chunk_units.append(len(columns.unit_starts) - 1)
        columns.chunk_flags += _HOLE if hole else _HAS_SHA256
        columns.chunk_sha256s += (None if hole else sha256) or _NO_SHA256

    def _place(self, entry: Entry, unit: int, inner_offset: int, size: int) -> None:
        """Find the chunk's unit, which is the last one or begins a new one."""
        starts, ends = self._columns.unit_starts, self._columns.unit_ends
        if not 0 <= unit < self._payload_end or inner_offset < 0 or unit + inner_offset == 0:
            raise BadImage("a chunk that does not lie in the layer's data", where=show(entry.path))
        if inner_offset + size > self._limits.layer_bytes:
            raise LimitExceeded(f"a unit holds more than {self._limits.layer_bytes} bytes", where=show(entry.path))
        if starts and unit == starts[-1]:
            if ends[-1] or inner_offset < self._inner_end:
                raise BadImage("chunks overlap in the blob", where=show(entry.path))
        else:
            if starts:
                last_end = ends[-1]
                if unit < (last_end or starts[-1]):
                    raise BadImage("chunks overlap in the blob, or are out of order", where=show(entry.path))
                if not last_end:
                    ends[-1] = unit
            starts.append(unit)
            ends.append(0)
        self._inner_end = inner_offset + size

    def _end_unit(self, entry: Entry, end: int) -> None:
        columns = self._columns
        if not columns.unit_starts[-1] < end <= self._payload_end:
            raise BadImage("a file ends outside of the layer's data", where=show(entry.path))
        columns.unit_ends[-1] = end


def _check_sizes(index: LayerIndex) -> None:
    """Refuse one digest for files of different sizes: there would be one object for them, of which size?

    By sorting, because a dictionary would double what the index itself takes.
    """
    sizes = index.columns.sizes
    digests = [digest for (digest,) in _SHA256.iter_unpack(index.columns.sha256s)]
    known = [number for number, (size, flag) in enumerate(zip(sizes, index.columns.flags, strict=True)) if size and flag]
    known.sort(key=digests.__getitem__)
    for one, other in pairwise(known):
        if digests[one] == digests[other] and sizes[one] != sizes[other]:
            raise BadImage("two files of different size have the same digest", where=show(index.entry(other).path))


def _lost(entry: Entry) -> Unsupported:
    return Unsupported(
        "a name that is no UTF-8, which the index cannot hold", where=show(entry.path), hint="the layer can only be read whole"
    )
