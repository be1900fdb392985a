"""What a parse worker tells of a layer: runs of its stream, each with the entries that begin in it.

A RUN frame is a u32 size of the index, the index, and bytes of the stream. The index has a record for each entry: a u32
position in these bytes, at which the entry's own bytes begin (``entry.stored`` of them, which may go on in the next runs),
then the entry. All bytes that belong to no entry are what the archive has around them. All numbers are little endian.

There are some 40 files in a megabyte of a usual layer. When each of them was three frames, that took a third of the time of
both processes.
"""

from __future__ import annotations

import struct

from als.errors import WorkerError
from als.model.entry import Entry, EntryType
from als.worker.frames import RUN, FrameWriter

_SIZE = struct.Struct("<I")
_ENTRY = struct.Struct("<IBHQQqIQQIIIIHI")
_PAIR = struct.Struct("<II")
_TYPES = tuple(EntryType)
_INDEX = {kind: index for index, kind in enumerate(_TYPES)}
_NOT_SPARSE = 0xFFFFFFFF
_RUN_BYTES = 1 << 19
_MAX_INDEX = 1 << 20


class RunWriter:
    """Gathers what a parser finds and writes it in runs of about half a megabyte."""

    def __init__(self, out: FrameWriter) -> None:
        self._out = out
        self._index: list[bytes] = []
        self._index_size = 0
        self._data: list[bytes | memoryview] = []
        self._size = 0

    def data(self, data: bytes | memoryview) -> None:
        """The stream's next bytes, which must not change before the next `flush`."""
        self._data.append(data)
        self._size += len(data)
        if self._size >= _RUN_BYTES:
            self.flush()

    def entry(self, entry: Entry) -> None:
        """An entry whose own bytes are those that come next."""
        record = pack_entry(self._size, entry)
        self._index.append(record)
        self._index_size += len(record)
        if self._index_size >= _MAX_INDEX:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered; it may be changed afterwards."""
        if self._data or self._index:
            self._out.write(RUN, _SIZE.pack(self._index_size), *self._index, *self._data)
            self._out.flush()
            self._index.clear()
            self._data.clear()
            self._index_size = self._size = 0


def unpack_run(body: memoryview) -> tuple[list[tuple[int, Entry]], memoryview]:
    """The entries of a RUN body with their positions, and the bytes of the stream that it holds.

    The positions are as the worker stated them: they may be in no order and lead beyond the bytes.

    :raises WorkerError: it is malformed.
    """
    if len(body) < _SIZE.size:
        raise WorkerError("a worker sent a run without an index")
    (index_size,) = _SIZE.unpack_from(body)
    start = _SIZE.size + index_size
    if start > len(body):
        raise WorkerError("a worker sent an index without an end")
    index = bytes(body[_SIZE.size : start])
    entries: list[tuple[int, Entry]] = []
    at = 0
    while at < index_size:
        position, entry, at = unpack_entry(index, at)
        entries.append((position, entry))
    return entries, body[start:]


def pack_entry(position: int, entry: Entry) -> bytes:
    """A record of the index: fixed fields, then path, linkname, xattrs and extents."""
    path, kind, mode, uid, gid, mtime, mtime_ns, size, stored, linkname, (major, minor), xattrs, extents = entry
    record = (
        _ENTRY.pack(
            position,
            _INDEX[kind],
            mode,
            uid,
            gid,
            mtime,
            mtime_ns,
            size,
            stored,
            major,
            minor,
            len(path),
            len(linkname),
            len(xattrs),
            _NOT_SPARSE if extents is None else len(extents),
        )
        + path
        + linkname
    )
    if not xattrs and not extents:
        return record
    parts = [record]
    for name, value in xattrs:
        parts += (_PAIR.pack(len(name), len(value)), name, value)
    parts.extend(struct.pack("<QQ", *extent) for extent in extents or ())
    return b"".join(parts)


def unpack_entry(index: bytes, at: int) -> tuple[int, Entry, int]:
    """The record at `at`: its position, its entry, and where the next record is.

    :raises WorkerError: it is malformed.
    """
    try:
        position, kind, mode, uid, gid, mtime, mtime_ns, size, stored, major, minor, path_size, link_size, xattr_count, runs = (
            _ENTRY.unpack_from(index, at)
        )
        path_at = at + _ENTRY.size
        link_at = path_at + path_size
        at = link_at + link_size
        if at > len(index):
            raise struct.error("short")
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        extents: tuple[tuple[int, int], ...] | None = None
        if xattr_count:
            xattrs, at = _unpack_xattrs(index, at, xattr_count)
        if runs != _NOT_SPARSE:
            numbers = struct.unpack_from(f"<{2 * runs}Q", index, at)
            extents = tuple(zip(numbers[::2], numbers[1::2], strict=True))
            at += 16 * runs
        path, linkname = index[path_at:link_at], index[link_at : link_at + link_size]
        rdev = (major, minor)
        entry = Entry(path, _TYPES[kind], mode, uid, gid, mtime, mtime_ns, size, stored, linkname, rdev, xattrs, extents)
        return position, entry, at
    except (struct.error, IndexError) as error:
        raise WorkerError("a worker sent a malformed entry") from error


def _unpack_xattrs(index: bytes, at: int, count: int) -> tuple[tuple[tuple[bytes, bytes], ...], int]:
    found: list[tuple[bytes, bytes]] = []
    for _ in range(count):
        name_size, value_size = _PAIR.unpack_from(index, at)
        at += _PAIR.size
        name_end = at + name_size
        value_end = name_end + value_size
        if value_end > len(index):
            raise struct.error("short")
        found.append((index[at:name_end], index[name_end:value_end]))
        at = value_end
    return tuple(found), at
