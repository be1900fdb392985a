"""From a unit's compressed bytes to the verified bytes of its chunks; and the whole blob as the stream that a DiffID is of.

**Reading files.** :class:`UnitReader` decompresses one unit as its bytes come in, whatever its size, and tells when a chunk has
proved to be what the index promises. Bytes of a chunk are unverified until then. Nothing is decompressed beyond the last
chunk's end unless the rest is asked for, so that no unit can expand further than the index says. :func:`read_chunk` and
:func:`read_file` are for chunks that fit in memory.

**Recomputing the DiffID.** The uncompressed stream is the units, and what lies between them, decompressed in the order of the
blob: :func:`stream_ranges` lists them. What is in them beside chunks are tar headers and padding. In eStargz the headers
are within the units, each after the chunk that precedes it, so the recomputation needs every unit, those of files too that
were found in the store and not fetched; who keeps the rest of each unit that is fetched (``whole=True``) needs to fetch only
the other units and the gaps in the end: the first headers, and the table of contents, which is part of the stream. In podman's
zstd:chunked the headers are in frames of their own; all of them together are also in the tar-split, where there is one
(:mod:`als.formats.zstdchunked.tarsplit`): then nothing at all has to be fetched. :func:`read_stream` gives the stream's parts
as a recipe wants them: bytes that are no file's, and references to files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from als.errors import BadImage, DigestMismatch, LimitExceeded
from als.formats.codecs import decompressor
from als.formats.index import Chunk, LayerIndex, Unit
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.paths import show

IN_MEMORY = 64 << 20
"""The largest chunk that is read in one piece by default. eStargz's have 4 MiB, zstd:chunked's 64 KiB on average."""
_FEED = 1 << 18


@dataclass(frozen=True, slots=True)
class Rest:
    """Bytes of the stream that are no listed file's: headers, padding, the table of contents, landmarks."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Bytes:
    """The next bytes of a chunk. They have not been verified."""

    number: int
    """Of the entry."""
    chunk: Chunk
    data: memoryview


@dataclass(frozen=True, slots=True)
class Verified:
    """All bytes of the chunk have come, and they are those that the index promises."""

    number: int
    chunk: Chunk


Event = Rest | Bytes | Verified


class UnitReader:
    """Reads one unit; used once.

    :param whole: also give what is in the unit beside chunks, up to its end.
    """

    def __init__(self, index: LayerIndex, unit: int, limits: Limits = DEFAULT_LIMITS, *, whole: bool = False) -> None:
        self._codec = decompressor(index.compression, limits)
        self._unit = index.unit(unit)
        self._missing = self._unit.length
        self._index = index
        self._whole = whole
        self._todo = index.chunks_in(unit)
        self._next = 0
        self._position = 0
        self._hasher = hashlib.sha256()

    @property
    def done(self) -> bool:
        """Every chunk of the unit was given and verified."""
        return self._next == len(self._todo)

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next compressed bytes; to be exhausted before the next call.

        :raises BadImage: they are damaged, or more than the unit has.
        :raises DigestMismatch: a chunk is not what the index promises.
        """
        self._missing -= len(data)
        if self._missing < 0:
            raise BadImage(f"{-self._missing} bytes too many", where=self._where())
        if self.done and not self._whole:
            return
        try:
            for piece in self._codec.feed(data):
                yield from self._split(piece)
                if self.done and not self._whole:
                    return
        except BadImage as error:
            raise self._placed(error) from error

    def finish(self) -> None:
        """All bytes were fed.

        :raises BadImage: the unit does not hold all that it should, or not all of it came.
        """
        if not self.done:
            raise BadImage("the data end before their last chunk does", where=self._where())
        if self._whole:
            if self._missing:
                raise BadImage(f"{self._missing} bytes are missing", where=self._where())
            try:
                self._codec.finish()
            except BadImage as error:
                raise self._placed(error) from error

    def _split(self, piece: bytes) -> Iterator[Event]:
        view = memoryview(piece)
        at = 0
        while at < len(view):
            if self.done:
                if self._whole:
                    yield Rest(piece[at:])
                return
            number, chunk = self._todo[self._next]
            here = self._position
            begins = chunk.inner_offset
            stop = begins + chunk.size if here >= begins else begins
            step = min(len(view) - at, stop - here)
            part = view[at : at + step]
            self._position += step
            at += step
            if here < begins:
                if self._whole:
                    yield Rest(bytes(part))
                continue
            if chunk.hole:
                if bytes(part).strip(b"\0"):
                    raise DigestMismatch("a hole is not all zeros", where=self._where())
            else:
                self._hasher.update(part)
            yield Bytes(number, chunk, part)
            if self._position == stop:
                self._verify(number, chunk)
                self._next += 1
                yield Verified(number, chunk)

    def _verify(self, number: int, chunk: Chunk) -> None:
        found, self._hasher = self._hasher.digest(), hashlib.sha256()
        if not chunk.hole and found != chunk.sha256:
            name = show(self._index.entry(number).path)
            raise DigestMismatch(f"not what the index promises of {name} at {chunk.offset}", where=self._where())

    def _placed(self, error: BadImage) -> BadImage:
        """The same error with where it was; a decompressor does not know."""
        return error if error.where else type(error)(error.what, where=self._where(), hint=error.hint)

    def _where(self) -> str:
        return f"bytes {self._unit.offset} to {self._unit.offset + self._unit.length} of the layer"


def read_unit(index: LayerIndex, unit: int, pieces: Iterable[bytes], *, whole: bool = False) -> Iterator[Event]:
    """What a unit holds, from all of its compressed bytes.

    :raises BadImage: see :class:`UnitReader`.
    """
    reader = UnitReader(index, unit, whole=whole)
    for piece in pieces:
        yield from reader.feed(piece)
    reader.finish()


def read_chunk(index: LayerIndex, chunk: Chunk, data: bytes, *, most: int = IN_MEMORY) -> bytes:
    """The verified bytes of one chunk.

    :param data: the chunk's unit as it is in the blob; of a hole nothing is needed.
    :raises BadImage: the data are damaged, or end too early.
    :raises DigestMismatch: they are not what the index promises.
    :raises LimitExceeded: the chunk has more than `most` bytes.
    """
    if chunk.size > most:
        raise LimitExceeded(f"a chunk of {chunk.size} bytes")
    if chunk.hole:
        return bytes(chunk.size)
    found = bytearray()
    reader = UnitReader(index, chunk.unit.number)
    for start in range(0, len(data), _FEED):
        for event in reader.feed(data[start : start + _FEED]):
            if isinstance(event, Bytes) and event.chunk == chunk:
                found += event.data
            elif isinstance(event, Verified) and event.chunk == chunk:
                return bytes(found)
    reader.finish()
    raise BadImage("the unit does not hold the chunk", where=f"bytes {chunk.unit.offset} of the layer")


def read_file(index: LayerIndex, number: int, fetch: Callable[[Unit], bytes], *, most: int = IN_MEMORY) -> Iterator[bytes]:
    """A whole file, chunk by chunk; each was verified, and that they are the whole file is verified last.

    :param fetch: gives a unit as it is in the blob.
    :raises BadImage: see :func:`read_chunk`.
    :raises DigestMismatch: the chunks are right, but together not the file that the index promises.
    """
    hasher = hashlib.sha256()
    for chunk in index.chunks(number):
        data = read_chunk(index, chunk, b"" if chunk.hole else fetch(chunk.unit), most=most)
        hasher.update(data)
        yield data
    promised = index.sha256(number)
    if promised is not None and hasher.digest() != promised:
        raise DigestMismatch("the file is not what the index promises", where=show(index.entry(number).path))


# -- the whole stream


@dataclass(frozen=True, slots=True)
class StreamRange:
    """`length` bytes of the blob from `offset` on."""

    offset: int
    length: int
    unit: int | None
    """The unit that this is; None for what lies between units."""


def stream_ranges(index: LayerIndex) -> Iterator[StreamRange]:
    """The ranges that, each decompressed and put together in this order, are the layer's uncompressed stream.

    They are the blob but for frames that the decompression skips anyway.
    """
    position = 0
    for number in range(index.units):
        unit = index.unit(number)
        yield from _between(index, position, unit.offset)
        yield StreamRange(unit.offset, unit.length, number)
        position = unit.offset + unit.length
    yield from _between(index, position, index.blob_size)


def gaps_of(index: LayerIndex) -> Iterator[StreamRange]:
    """Those of the ranges that are no units, in order."""
    columns = index.columns
    before, after = (0, *columns.unit_ends), (*columns.unit_starts, index.blob_size)
    return (gap for start, end in zip(before, after, strict=True) if start < end for gap in _between(index, start, end))


def _between(index: LayerIndex, start: int, end: int) -> Iterator[StreamRange]:
    for gap_start, gap_end in index.stream_gaps:
        if start <= gap_start and gap_end <= end:
            if gap_start > start:
                yield StreamRange(start, gap_start - start, None)
            start = gap_end
    if end > start:
        yield StreamRange(start, end - start, None)


def read_stream(
    index: LayerIndex, fetch: Callable[[StreamRange], Iterable[bytes]], limits: Limits = DEFAULT_LIMITS
) -> Iterator[Event]:
    """The uncompressed stream: whose `Rest` and `Bytes` together it is, in this order.

    :param fetch: gives the bytes of a range in pieces.
    :raises BadImage: a range is damaged, or a chunk is not what the index promises.
    """
    for wanted in stream_ranges(index):
        if wanted.unit is not None:
            yield from read_unit(index, wanted.unit, fetch(wanted), whole=True)
            continue
        codec = decompressor(index.compression, limits)
        for piece in fetch(wanted):
            for data in codec.feed(piece):
                yield Rest(data)
        codec.finish()
