"""What a layer's stream has beside its files (headers, padding), kept as it comes until the DiffID is computed.

A file of records, each a header and data: u32 number, u32 length, u32 CRC-32 of both and the data. The numbers are those of
units and, after them, of the gaps between units (:func:`als.formats.units.gaps_of`). It is only ever appended to, and never
synced: a torn end is cut off when it is opened again. Whether what is in it is right the DiffID alone can tell.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path

from als.errors import StoreDamaged
from als.formats.index import Chunk
from als.lazy.partial import write_at
from als.store.refused import store_errors

_HEADER = struct.Struct("<III")
_NUMBERS = struct.Struct("<II")
_NONE = (1 << 64) - 1


class RestLog:
    """Thread-safe. Failures of the disk are raised as StoreError.

    :param count: how many units and gaps there are.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._places = array("Q", [_NONE]) * count
        self._lengths = array("I", [0]) * count
        with store_errors(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._end = self._scan()
            os.ftruncate(self._fd, self._end)

    def has(self, number: int) -> bool:
        """Whether the rest of a unit, or a gap, is here."""
        return self._places[number] != _NONE

    def add(self, number: int, data: bytes | bytearray) -> None:
        """Keep the rest of a unit, or what is in a gap. What is there already stays."""
        crc = zlib.crc32(data, zlib.crc32(_NUMBERS.pack(number, len(data))))
        with self._lock, store_errors(self._path):
            if self.has(number) or self._fd < 0:
                return
            write_at(self._fd, _HEADER.pack(number, len(data), crc) + data, self._end)
            self._places[number] = self._end + _HEADER.size
            self._lengths[number] = len(data)
            self._end += _HEADER.size + len(data)

    def get(self, number: int) -> bytes:
        """What `add` was given.

        :raises StoreDamaged: it is not here.
        """
        with self._lock, store_errors(self._path):
            there = self.has(number) and self._fd >= 0
            data = os.pread(self._fd, self._lengths[number], self._places[number]) if there else b""
        if not self.has(number) or len(data) != self._lengths[number]:
            raise StoreDamaged("a part of the layer's stream is missing", where=f"range {number}")
        return data

    def clear(self) -> None:
        """Forget everything."""
        with self._lock, store_errors(self._path):
            os.ftruncate(self._fd, 0)
            self._end = 0
            for number in range(len(self._places)):
                self._places[number] = _NONE

    def close(self) -> None:
        """What is added from now on is lost."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _scan(self) -> int:
        """Find what is in the file; returns where the last whole record ends."""
        position = 0
        while len(header := os.pread(self._fd, _HEADER.size, position)) == _HEADER.size:
            number, length, crc = _HEADER.unpack(header)
            data = os.pread(self._fd, min(length, 1 << 30), position + _HEADER.size)
            whole = len(data) == length and number < len(self._places)
            if not whole or zlib.crc32(data, zlib.crc32(header[: _NUMBERS.size])) != crc:
                break
            self._places[number], self._lengths[number] = position + _HEADER.size, length
            position += _HEADER.size + length
        return position


def beside(data: bytearray, chunks: Sequence[Chunk]) -> bytes:
    """What a unit holds beside its chunks."""
    parts: list[memoryview] = []
    view = memoryview(data)
    position = 0
    for chunk in chunks:
        parts.append(view[position : chunk.inner_offset])
        position = chunk.inner_offset + chunk.size
    return b"".join([*parts, view[position:]])
