"""How to get a layer's tar stream back, bit by bit, from the objects: what tar-split is for containers/storage.

A recipe is the 8 bytes ``ALSRCP1\\n`` and then one zstd frame of records, back to back, integers little endian:

- ``S`` u32 length, then that many bytes of the stream as they were (headers, padding, the content of tiny files);
- ``O`` 32 bytes sha256, u64 offset, u64 length: that part of the object's content;
- ``Z``, the last one: a recipe that ends without it is torn.

tar-split itself (github.com/vbatts/tar-split) names files by path: reading it back needs a mounted layer, and content that a
later entry of the same name replaced is lost. Recipes name objects. For clients there is tar-split beside (als.store.tarsplit).
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import zstandard

from als.errors import StoreDamaged

MAGIC = b"ALSRCP1\n"
_SEGMENT = struct.Struct("<cI")
_OBJECT = struct.Struct("<32sQQ")
_MAX_SEGMENT = 1 << 20

OpenObject = Callable[[bytes], int]
"""Gives a descriptor of an object's content, open for reading; who asked closes it."""


class ObjectPart(NamedTuple):
    """`length` bytes of an object, from `offset` on."""

    sha256: bytes
    offset: int
    length: int


class RecipeWriter:
    """Writes a recipe; `close` completes it."""

    def __init__(self, out: BinaryIO) -> None:
        out.write(MAGIC)
        self._out = out
        self._zstd = zstandard.ZstdCompressor(level=3, write_checksum=True).compressobj()
        self._pending = bytearray()
        self._records = bytearray()

    def segment(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes of the stream that no object holds."""
        self._pending += data
        if len(self._pending) >= _MAX_SEGMENT:
            self._flush()

    def object(self, part: ObjectPart) -> None:
        """Bytes of the stream that an object holds."""
        if part.length:
            self._flush()
            self._write(b"O" + _OBJECT.pack(*part))

    def _flush(self) -> None:
        pending = self._pending
        if 0 < len(pending) <= _MAX_SEGMENT:
            self._write(_SEGMENT.pack(b"S", len(pending)) + pending)
        else:
            for start in range(0, len(pending), _MAX_SEGMENT):
                piece = pending[start : start + _MAX_SEGMENT]
                self._write(_SEGMENT.pack(b"S", len(piece)) + piece)
        pending.clear()

    def close(self) -> None:
        self._flush()
        self._write(b"Z")
        self._compress()
        self._out.write(self._zstd.flush())

    def _write(self, record: bytes | bytearray) -> None:
        self._records += record
        # Calls of the compressor for single records took as long as the compression itself.
        if len(self._records) >= _MAX_SEGMENT:
            self._compress()

    def _compress(self) -> None:
        self._out.write(self._zstd.compress(self._records))
        self._records.clear()


def read_recipe(path: Path) -> Iterator[bytes | ObjectPart]:
    """The records of a recipe, in the order of the stream.

    :raises StoreDamaged: it is torn or not a recipe.
    """
    damaged = StoreDamaged("the recipe of this layer is damaged", where=str(path), hint="remove the layer and pull it again")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise damaged
        with io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file), _MAX_SEGMENT) as stream:
            try:
                while (kind := stream.read(1)) != b"Z":
                    if kind == b"S":
                        (length,) = struct.unpack("<I", _exactly(stream, 4, damaged))
                        if length > _MAX_SEGMENT:
                            raise damaged
                        yield _exactly(stream, length, damaged)
                    elif kind == b"O":
                        yield ObjectPart(*_OBJECT.unpack(_exactly(stream, _OBJECT.size, damaged)))
                    else:
                        raise damaged
            except zstandard.ZstdError as error:
                raise damaged from error


def _exactly(stream: BinaryIO, length: int, damaged: StoreDamaged) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise damaged
    return data


def tar_stream(recipe: Path, open_object: OpenObject, *, piece: int = 1 << 20) -> Iterator[bytes]:
    """The layer's tar stream.

    :raises StoreDamaged: the recipe is torn or an object is too short.
    """
    for record in read_recipe(recipe):
        if isinstance(record, bytes):
            yield record
            continue
        fd = open_object(record.sha256)
        try:
            yield from object_bytes(fd, record, piece=piece)
        finally:
            os.close(fd)


def object_bytes(fd: int, part: ObjectPart, *, piece: int = 1 << 20) -> Iterator[bytes]:
    """A part of an object whose content `fd` gives, in pieces.

    :raises StoreDamaged: the object is too short.
    """
    done = 0
    while done < part.length:
        data = os.pread(fd, min(piece, part.length - done), part.offset + done)
        if not data:
            raise StoreDamaged(
                "an object is shorter than it was", where=part.sha256.hex(), hint="remove the layer and pull it again"
            )
        done += len(data)
        yield data
