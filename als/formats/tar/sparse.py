"""The maps of sparse files, in the four forms that GNU tar has given them.

A map lists (offset, length) of each run of data; the runs are stored one after another. Its old GNU form stands in the
header and in extension blocks after it, that of PAX 0.0 and 0.1 in the extended header, that of PAX 1.0 as decimal lines
before the data. Source: GNU tar's manual, "Storing Sparse Files"; the checks are those of Go's ``archive/tar``.
"""

from __future__ import annotations

from collections.abc import Sequence

from als.errors import BadImage, LimitExceeded
from als.formats.tar.headers import BLOCK, parse_number
from als.formats.tar.pax import SPARSE_MAP, Records, parse_integer

Extent = tuple[int, int]

_PAIR = 24
_OLD_MAP = slice(386, 482)
_OLD_EXTENDED = 482
_OLD_REALSIZE = slice(483, 495)
_EXTENSION_MAP = slice(0, 504)
_EXTENSION_EXTENDED = 504


def old_gnu_size(block: bytes) -> int:
    """The size of the file that an ``S`` header describes, holes included.

    :raises BadImage: the field is no number.
    """
    return parse_number(block[_OLD_REALSIZE])


def old_gnu_map(block: bytes, *, extension: bool) -> tuple[list[Extent], bool]:
    """The runs in an ``S`` header or in an extension block, and whether (another) extension block follows.

    :raises BadImage: a field is no number.
    """
    table = block[_EXTENSION_MAP if extension else _OLD_MAP]
    extents: list[Extent] = []
    for at in range(0, len(table), _PAIR):
        if not table[at]:
            break
        extents.append((parse_number(table[at : at + 12]), parse_number(table[at + 12 : at + 24])))
    return extents, bool(block[_EXTENSION_EXTENDED if extension else _OLD_EXTENDED])


def pax_version(records: Records) -> str | None:
    """``"0"`` (the map is in the records), ``"1.0"`` (it precedes the data), or None for a file that is not sparse.

    A version that nobody knows is none either: such a file is then read as it is stored, as in Go.
    """
    version = (records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b""))
    if version in ((b"0", b"0"), (b"0", b"1")):
        return "0"
    if version == (b"1", b"0"):
        return "1.0"
    return "0" if version == (b"", b"") and records.get(SPARSE_MAP) else None


def pax_name(records: Records, default: bytes) -> bytes:
    """The name of a sparse file; ``path`` holds a made-up one for readers that know nothing of sparse files."""
    return records.get(b"GNU.sparse.name") or default


def pax_size(records: Records, default: int) -> int:
    """The size of a sparse file, holes included.

    :raises BadImage: the value is no number.
    """
    value = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
    return parse_integer(value) if value else default


def pax_map(records: Records) -> list[Extent]:
    """The map of version 0.0 or 0.1.

    :raises BadImage: it is malformed.
    """
    text = records.get(SPARSE_MAP)
    numbers = [parse_integer(value) for value in text.split(b",")] if text else []
    if len(numbers) != 2 * parse_integer(records.get(b"GNU.sparse.numblocks", b"")):
        raise BadImage("a PAX sparse map has not as many entries as it says")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


class PaxMapReader:
    """Collects the map of version 1.0: the number of runs, then offset and length of each, one decimal a line."""

    def __init__(self, limit: int) -> None:
        """:param limit: bytes that the map may take."""
        self._limit = limit
        self._blocks: list[bytes] = []
        self._lines = 0
        self._wanted: int | None = None

    @property
    def bytes_read(self) -> int:
        """How many bytes of the file's payload the map took so far."""
        return BLOCK * len(self._blocks)

    def feed(self, block: bytes) -> bool:
        """Take the next block; True once it was the map's last.

        :raises BadImage: the map is malformed.
        :raises LimitExceeded: it is too long.
        """
        self._blocks.append(block)
        if self.bytes_read > self._limit:
            raise LimitExceeded(f"a sparse map of more than {self._limit} bytes")
        self._lines += block.count(b"\n")
        if self._wanted is None and self._lines:
            count = parse_integer(b"".join(self._blocks).split(b"\n", 1)[0])
            if count < 0:
                raise BadImage("a sparse map of a negative number of runs")
            self._wanted = 1 + 2 * count
        return self._wanted is not None and self._lines >= self._wanted

    def extents(self) -> list[Extent]:
        """The map that was read.

        :raises BadImage: it is malformed.
        """
        lines = b"".join(self._blocks).split(b"\n")[1 : self._wanted]
        numbers = [parse_integer(line) for line in lines]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def checked(extents: Sequence[Extent], size: int, stored: int) -> tuple[Extent, ...]:
    """The runs of data without empty ones.

    :param stored: bytes that the archive holds for them.
    :raises BadImage: they are out of order, overlap, lie beyond `size` or are not what is stored.
    """
    end = total = 0
    for offset, length in extents:
        if length < 0 or offset < end or offset + length > size:
            raise BadImage("a sparse map is out of order or leads beyond the file's end")
        end = offset + length
        total += length
    if size < 0 or total != stored:
        raise BadImage(f"a sparse map of {total} bytes for {stored} that are stored")
    return tuple(extent for extent in extents if extent[1])
