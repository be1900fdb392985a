"""The protocol between a worker and the privileged side: frames of one kind byte, u32 length (little endian), body.

Both ends treat it as hostile: a frame longer than `MAX_BODY` or cut short is an error, never a wait for more memory.
"""

from __future__ import annotations

import json
import os
import select
import struct
from collections.abc import Callable, Iterator

from als import errors
from als.errors import AlsError, WorkerError
from als.model.entry import Entry, EntryType

SEGMENT = ord("S")
"""Bytes of the stream that are no file's content."""
BEGIN = ord("B")
"""An entry (see `pack_entry`)."""
PAYLOAD = ord("P")
"""Content of the entry begun last."""
HEADER = ord("H")
"""JSON about what follows."""
DATA = ord("D")
"""Bytes of a body."""
END = ord("Z")
"""All is said; JSON."""
ERROR = ord("E")
"""An AlsError as JSON; nothing follows."""

MAX_BODY = 5 << 20
_HEADER = struct.Struct("<BI")
_WRITE_SIZE = 1 << 18
_MAX_PARTS = 1000
"""Less than IOV_MAX (writev(2))."""


class FrameWriter:
    """Writes frames to a descriptor, small ones gathered."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def write(self, kind: int, body: bytes | memoryview) -> None:
        """Append a frame; `body` must not change before the next `flush`, which is called here where enough has gathered."""
        self._parts += (_HEADER.pack(kind, len(body)), body)
        self._size += _HEADER.size + len(body)
        if self._size >= _WRITE_SIZE or len(self._parts) >= _MAX_PARTS:
            self.flush()

    def write_json(self, kind: int, value: object) -> None:
        self.write(kind, json.dumps(value).encode())

    def write_error(self, error: AlsError) -> None:
        """Hand over an error to be raised on the other side."""
        name = type(error).__name__
        self.write_json(ERROR, {"type": name, "what": error.what, "where": error.where, "hint": error.hint})

    def flush(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        while parts:
            written = os.writev(self._fd, parts)
            done = 0
            while done < len(parts) and written >= len(parts[done]):
                written -= len(parts[done])
                done += 1
            del parts[:done]
            if written:
                parts[0] = memoryview(parts[0])[written:]


class FrameReader:
    """Reads frames from a descriptor.

    :param idle: called every `tick` seconds without data; raises when the wait has been long enough.
    """

    def __init__(self, fd: int, idle: Callable[[], None], *, tick: float = 0.5) -> None:
        self._fd = fd
        self._idle = idle
        self._tick_ms = int(tick * 1000)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._buffer = bytearray(MAX_BODY + _HEADER.size)
        self._start = self._end = 0

    def frames(self) -> Iterator[tuple[int, memoryview]]:
        """Each frame; its body is valid until the next one is asked for. An ERROR frame is raised.

        :raises WorkerError: the worker broke the protocol or ended without END.
        """
        whole = memoryview(self._buffer)
        while True:
            while self._end - self._start < _HEADER.size:
                self._fill()
            kind, length = _HEADER.unpack_from(self._buffer, self._start)
            if length > MAX_BODY:
                raise WorkerError(f"a worker sent a frame of {length} bytes")
            while self._end - self._start < _HEADER.size + length:
                self._fill()
            body_start = self._start + _HEADER.size
            self._start = body_start + length
            body = whole[body_start : self._start]
            if kind == ERROR:
                raise unpack_error(bytes(body))
            yield kind, body
            if kind == END:
                return

    def _fill(self) -> None:
        if self._start:
            left = self._end - self._start
            self._buffer[:left] = self._buffer[self._start : self._end]
            self._start, self._end = 0, left
        while not self._poll.poll(self._tick_ms):
            self._idle()
        try:
            count = os.readv(self._fd, [memoryview(self._buffer)[self._end : self._end + (1 << 20)]])
        except ConnectionResetError:
            count = 0
        if not count:
            raise WorkerError(
                "a worker ended without an answer", hint="look into the log for why; it may have run out of memory"
            )
        self._end += count


def read_json(body: bytes | memoryview) -> dict[str, object]:
    """A JSON object from a frame.

    :raises WorkerError: it is something else.
    """
    try:
        value = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise WorkerError("a worker sent something that is not JSON") from error
    if not isinstance(value, dict):
        raise WorkerError("a worker sent something that is not a JSON object")
    return value


def unpack_error(body: bytes) -> AlsError:
    """The error that the other side raised, as one of our own tree and nothing else."""
    value = read_json(body)
    kind = getattr(errors, str(value.get("type")), None)
    if not (isinstance(kind, type) and issubclass(kind, AlsError)):
        kind = WorkerError
    return kind(_printable(value.get("what")), where=_printable(value.get("where", "")), hint=_printable(value.get("hint", "")))


def _printable(value: object) -> str:
    """A text for a log or a terminal: not endless, and nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value)[:1000])


_ENTRY = struct.Struct("<BHQQqIQQIIIIHI")
_TYPES = tuple(EntryType)
_INDEX = {kind: index for index, kind in enumerate(_TYPES)}
_NOT_SPARSE = 0xFFFFFFFF


def pack_entry(entry: Entry) -> bytes:
    """An entry as a BEGIN body: fixed fields little endian, then path, linkname, xattrs and extents."""
    parts = [
        _ENTRY.pack(
            _INDEX[entry.type],
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime,
            entry.mtime_ns,
            entry.size,
            entry.stored,
            entry.rdev[0],
            entry.rdev[1],
            len(entry.path),
            len(entry.linkname),
            len(entry.xattrs),
            _NOT_SPARSE if entry.extents is None else len(entry.extents),
        ),
        entry.path,
        entry.linkname,
    ]
    for name, value in entry.xattrs:
        parts += (struct.pack("<II", len(name), len(value)), name, value)
    parts.extend(struct.pack("<QQ", *extent) for extent in entry.extents or ())
    return b"".join(parts)


def unpack_entry(body: memoryview) -> Entry:
    """The reverse of `pack_entry`.

    :raises WorkerError: it is malformed.
    """
    try:
        kind, mode, uid, gid, mtime, mtime_ns, size, stored, major, minor, path_len, link_len, xattr_count, extent_count = (
            _ENTRY.unpack_from(body)
        )
        take = _Cursor(body, _ENTRY.size)
        path, linkname = take.bytes(path_len), take.bytes(link_len)
        xattrs = []
        for _ in range(xattr_count):
            name_len, value_len = struct.unpack("<II", take.bytes(8))
            xattrs.append((take.bytes(name_len), take.bytes(value_len)))
        extents: tuple[tuple[int, int], ...] | None = None
        if extent_count != _NOT_SPARSE:
            numbers = struct.unpack(f"<{2 * extent_count}Q", take.bytes(16 * extent_count))
            extents = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        return Entry(
            path, _TYPES[kind], mode, uid, gid, mtime, mtime_ns, size, stored, linkname, (major, minor), tuple(xattrs), extents
        )
    except (struct.error, IndexError) as error:
        raise WorkerError("a worker sent a malformed entry") from error


class _Cursor:
    def __init__(self, view: memoryview, offset: int) -> None:
        self._view = view
        self._offset = offset

    def bytes(self, length: int) -> bytes:
        end = self._offset + length
        if end > len(self._view):
            raise struct.error("short")
        data = bytes(self._view[self._offset : end])
        self._offset = end
        return data
