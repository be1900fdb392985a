"""The names and attributes of an index in runs, while the rest of it is still being read.

A run is a u32 number of entries and then, for each of the columns of :data:`_FIXED`, of the text, the device numbers and the
xattrs, a u32 length and so many bytes: what the finished index has there for these entries. Numbers are little endian. All
runs together are therefore the columns of the index byte by byte, and :func:`digest_of` says whether somebody who has seen
runs alone has seen the very same as somebody who has the index.

Who reads runs of an unprivileged worker believes nothing of them but that: :class:`RowReader` checks what it needs to make
entries, and who makes a tree of those checks the rest, as with entries from any archive.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Iterator

from als.errors import BadImage
from als.formats.codecs import Compression
from als.formats.index import SHA256_BYTES, Columns, LayerIndex
from als.formats.indexfile import Reader, entries_can_be, little, pack_rdevs, pack_xattrs, unpack_rdevs, unpack_xattrs

_U32 = struct.Struct("<I")
_FIXED = ("path_ends", "link_ends", "kinds", "modes", "uids", "gids", "mtimes", "mtimes_ns", "sizes", "flags", "sha256s")
_WIDTHS = {"kinds": 1, "flags": 1, "sha256s": SHA256_BYTES}
"""Bytes of an entry in columns that are no arrays."""
_COUNT = len(_FIXED) + 3

Watch = Callable[[Columns], None]
"""Told of an index's columns again and again while they grow."""


def unwatched(_: Columns) -> None:
    """A watch that does nothing."""


def _slices(columns: Columns, start: int, stop: int) -> list[bytes]:
    """What the entries from `start` to `stop` have in each column."""
    found: list[bytes] = []
    for name in _FIXED:
        column = getattr(columns, name)
        if isinstance(column, array):
            found.append(little(column[start:stop]).tobytes())
        else:
            width = _WIDTHS[name]
            found.append(bytes(column[start * width : stop * width]))
    first, last = (columns.link_ends[number - 1] if number else 0 for number in (start, stop))
    found.append(bytes(columns.text[first:last]))
    rdevs = {number: columns.rdevs[number] for number in range(start, stop) if number in columns.rdevs}
    xattrs = {number: columns.xattrs[number] for number in range(start, stop) if number in columns.xattrs}
    return [*found, pack_rdevs(rdevs), pack_xattrs(xattrs)]


def pack_rows(columns: Columns, start: int, stop: int) -> bytes:
    """A run of the entries from `start` to `stop`."""
    parts = [_U32.pack(stop - start)]
    for each in _slices(columns, start, stop):
        parts += (_U32.pack(len(each)), each)
    return b"".join(parts)


def digest_of(columns: Columns) -> bytes:
    """What :meth:`RowReader.digest` of all the index's runs is."""
    return _together(hashlib.sha256(each).digest() for each in _slices(columns, 0, len(columns.kinds)))


def _together(digests: Iterator[bytes]) -> bytes:
    return hashlib.sha256(b"".join(digests)).digest()


class RowReader:
    """Reads runs, in their order."""

    def __init__(self) -> None:
        self._hashers = [hashlib.sha256() for _ in range(_COUNT)]
        self._entries = 0
        self._text = 0

    @property
    def digest(self) -> bytes:
        """Of all that was read."""
        return _together(each.digest() for each in self._hashers)

    def read(self, body: bytes) -> LayerIndex:
        """The entries of a run, as an index that knows nothing of bytes.

        :raises BadImage: it is malformed.
        """
        count, slices = _unpack(body)
        for hasher, data in zip(self._hashers, slices, strict=True):
            hasher.update(data)
        columns = Columns()
        for name, data in zip(_FIXED, slices, strict=False):
            column = getattr(columns, name)
            width = column.itemsize if isinstance(column, array) else _WIDTHS[name]
            if len(data) != count * width:
                raise _damaged("a column of another length")
            if isinstance(column, array):
                column.frombytes(data)
                setattr(columns, name, little(column))
            else:
                setattr(columns, name, data)
        columns.text, rdevs, xattrs = slices[len(_FIXED) :]
        try:
            columns.path_ends = array("I", [end - self._text for end in columns.path_ends])
            columns.link_ends = array("I", [end - self._text for end in columns.link_ends])
        except OverflowError as error:
            raise _damaged("text that was here before") from error
        columns.rdevs = {number - self._entries: rdev for number, rdev in unpack_rdevs(memoryview(rdevs)).items()}
        columns.xattrs = {number - self._entries: pairs for number, pairs in unpack_xattrs(memoryview(xattrs)).items()}
        columns.chunk_ends = array("I", [0]) * count
        _check(columns, count)
        self._entries += count
        self._text += len(columns.text)
        return LayerIndex(columns, Compression.NONE, 0, ())


def _unpack(body: bytes) -> tuple[int, list[bytes]]:
    reader = Reader(memoryview(body))
    count = reader.number(_U32.format)
    slices = [bytes(reader.take(reader.number(_U32.format))) for _ in range(_COUNT)]
    reader.finish()
    return count, slices


def _check(columns: Columns, count: int) -> None:
    if not entries_can_be(columns) or any(not 0 <= number < count for number in (*columns.rdevs, *columns.xattrs)):
        raise _damaged("numbers out of order")
    if any(size and not flags for size, flags in zip(columns.sizes, columns.flags, strict=True)):
        # The digest of its chunks would be its name; such a layer is not read lazily anyway.
        raise _damaged("a file without a digest")


def _damaged(what: str) -> BadImage:
    return BadImage(f"not a run of an index: {what}", where="index")
