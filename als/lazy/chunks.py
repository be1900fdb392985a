"""Which chunks and files of a layer are here. Pure, and in columns beside those of the index: a byte for each chunk.

A layer may have several entries with the same content. The first of them stands for all: chunks of the others are never needed.
A *file* in what follows is a content, known by its name in the forest (als.model.tree.Content).
"""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress, islice
from struct import Struct

from als.formats.index import HAS_SHA256, HOLE, SHA256_BYTES, Chunk, LayerIndex

_SHA256 = Struct(f"{SHA256_BYTES}s")


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a layer is here; bytes are those of its files, uncompressed."""

    files: int
    files_here: int
    chunks: int
    chunks_here: int
    bytes: int
    bytes_here: int


class ChunkMap:
    """The state of one layer, at first nothing. Not thread-safe."""

    def __init__(self, index: LayerIndex) -> None:
        self.index = index
        columns = index.columns
        self._here = bytearray(len(columns.chunk_offsets))
        self._whole = bytearray(len(index))
        """1: the file is here; 2: another entry stands for it."""
        with_content = list(compress(range(len(index)), columns.sizes))
        digests = [digest for (digest,) in _SHA256.iter_unpack(columns.sha256s)]
        unnamed = [number for number in with_content if not columns.flags[number] & HAS_SHA256]
        named = (number for number in with_content if columns.flags[number] & HAS_SHA256)
        # Not a dict: of a million files it would take a hundred megabytes more.
        self._sorted = array("I", sorted(named, key=digests.__getitem__))
        ordered = list(map(digests.__getitem__, self._sorted))
        for at in compress(range(1, len(ordered)), map(operator.eq, ordered, islice(ordered, 1, None))):
            self._whole[self._sorted[at]] = 2
        self._unnamed: dict[bytes, int] = {}
        for number in unnamed:
            name = index.chunks_digest(number)
            if name in self._unnamed:
                self._whole[self._unnamed[name]] = 2
            self._unnamed[name] = number
        self._needs = bytearray(index.units)
        self._left = 0
        self._count()

    # -- files

    def find(self, name: bytes) -> int | None:
        """The entry that stands for the file of this name."""
        index = self.index
        at = bisect_left(self._sorted, name, key=lambda number: index.sha256(number) or b"")
        if at < len(self._sorted) and index.sha256(self._sorted[at]) == name:
            return self._sorted[at]
        return self._unnamed.get(name)

    def name(self, number: int) -> bytes:
        """The name of an entry's file."""
        return self.index.content_name(number)

    def entries(self, name: bytes) -> Iterator[int]:
        """All entries with the file of this name; of one that is known by its chunks alone, only the one that stands for it."""
        first = bisect_left(self._sorted, name, key=lambda number: self.index.sha256(number) or b"")
        for at in range(first, len(self._sorted)):
            if self.index.sha256(self._sorted[at]) != name:
                break
            yield self._sorted[at]
        if name in self._unnamed:
            yield self._unnamed[name]

    def absent(self) -> Iterator[int]:
        """The entries that stand for files which are not here, ordered by their names."""
        yield from (number for number in self._sorted if not self._whole[number])
        yield from (number for number in self._unnamed.values() if not self._whole[number])

    def absent_files(self) -> list[tuple[bytes, int]]:
        """sha256 and size of those of them whose sha256 the index commits to."""
        whole, sizes, sha256s = self._whole, self.index.columns.sizes, self.index.sha256s()
        absent = [(sha256s[number], sizes[number]) for number in self._sorted if not whole[number]]
        return [(sha256, size) for sha256, size in absent if sha256 is not None]

    def filled(self) -> list[int]:
        """The entries all of whose chunks are here, and that are not here as one."""
        if not any(self._here):
            return []
        rows = ((number, self.rows(number)) for number in self.absent())
        return [number for number, each in rows if self._here.find(0, each.start, each.stop) < 0]

    def whole(self, number: int) -> bool:
        """Whether all of a file is here, as one."""
        return self._whole[number] == 1

    def stands(self, number: int) -> bool:
        """Whether this entry stands for its file."""
        return self._whole[number] != 2

    def set_whole(self, number: int) -> list[int]:
        """A file is here; returns the units that nothing is needed of any more."""
        if self._whole[number] == 1:
            return []
        self._whole[number] = 1
        self._left -= 1
        units: list[int] = []
        for row in self.rows(number):
            if not self._here[row]:
                self._take(number, row)
            unit = self.index.columns.chunk_units[row]
            if (not units or units[-1] != unit) and not self._refresh(unit):
                units.append(unit)
        return units

    @property
    def complete(self) -> bool:
        """Whether every file is here."""
        return self._left == 0

    # -- chunks

    def rows(self, number: int) -> range:
        """The rows of a file's chunks."""
        ends = self.index.columns.chunk_ends
        return range(ends[number - 1] if number else 0, ends[number])

    def has(self, row: int) -> bool:
        """Whether a chunk is here."""
        return bool(self._here[row])

    def set_here(self, number: int, row: int) -> bool:
        """A chunk is here; whether with it all chunks of its file are."""
        if not self._here[row]:
            self._take(number, row)
            self._refresh(self.index.columns.chunk_units[row])
        rows = self.rows(number)
        return self._here.find(0, rows.start, rows.stop) < 0

    def set_absent(self, number: int, row: int) -> None:
        """A chunk that was here has to come again."""
        if self._here[row]:
            self._take(number, row, here=False)
            self._needs[self.index.columns.chunk_units[row]] = 1

    def missing(self, number: int, offset: int, length: int) -> list[tuple[int, Chunk]]:
        """The chunks that are not here of those which hold any of `length` bytes of a file from `offset` on, and their rows."""
        if self._whole[number] == 1:
            return []
        rows = self.rows(number)
        offsets = self.index.columns.chunk_offsets
        found: list[tuple[int, Chunk]] = []
        for chunk in self.index.chunks_within(number, offset, length):
            row = bisect_left(offsets, chunk.offset, rows.start, rows.stop)
            if not self._here[row]:
                found.append((row, chunk))
        return found

    def in_unit(self, unit: int) -> Iterator[tuple[int, int, Chunk]]:
        """Row, entry and chunk of what a unit holds, in its order."""
        first = bisect_left(self.index.columns.chunk_units, unit)
        for step, (number, chunk) in enumerate(self.index.chunks_in(unit)):
            yield first + step, number, chunk

    # -- units

    def needed(self, unit: int) -> bool:
        """Whether a unit holds anything that is not here."""
        return bool(self._needs[unit])

    def unneeded(self) -> Iterator[int]:
        """The units that nothing is needed of."""
        return (unit for unit, needs in enumerate(self._needs) if not needs)

    @property
    def progress(self) -> Progress:
        """A snapshot."""
        return Progress(self._files, self._files - self._left, self._chunks, self._chunks_here, self._bytes, self._bytes_here)

    # -- within

    def _count(self) -> None:
        columns, needs = self.index.columns, self._needs
        absent = bytearray(map(HOLE.__ne__, columns.chunk_flags))
        self._files = sum(map(bool, columns.sizes))
        self._bytes = sum(columns.sizes)
        self._chunks = len(absent)
        self._chunks_here = self._bytes_here = 0
        stands = bytearray(b"\1") * len(absent)
        for number in compress(range(len(self._whole)), self._whole):
            rows = self.rows(number)
            self._files -= 1
            self._bytes -= columns.sizes[number]
            self._chunks -= len(rows)
            stands[rows.start : rows.stop] = bytes(len(rows))
        self._left = self._files
        for row in compress(range(len(absent)), map(operator.gt, stands, absent)):
            self._take(bisect_right(columns.chunk_ends, row), row)
        for unit in compress(columns.chunk_units, map(operator.and_, stands, absent)):
            needs[unit] = 1

    def _take(self, number: int, row: int, *, here: bool = True) -> None:
        columns = self.index.columns
        self._here[row], sign = (1, 1) if here else (0, -1)
        last = row + 1 == columns.chunk_ends[number]
        end = columns.sizes[number] if last else columns.chunk_offsets[row + 1]
        self._chunks_here += sign
        self._bytes_here += sign * (end - columns.chunk_offsets[row])

    def _refresh(self, unit: int) -> bool:
        """See whether a unit is still needed."""
        needed = self._needs[unit] and any(
            self._whole[number] == 0 and not self._here[row] for row, number, _ in self.in_unit(unit)
        )
        self._needs[unit] = bool(needed)
        return bool(needed)
