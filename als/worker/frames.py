"""The protocol between a worker and the privileged side: frames of one kind byte, u32 length (little endian), body.

Both ends treat it as hostile: a frame longer than `MAX_BODY` or cut short is an error, never a wait for more memory.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator

from als import errors
from als.errors import AlsError, WorkerError

RUN = ord("R")
"""The next bytes of a layer's stream and the entries that begin in them (see :mod:`als.worker.runs`)."""
HEADER = ord("H")
"""JSON about what follows."""
DATA = ord("D")
"""Bytes of a body."""
END = ord("Z")
"""All is said; JSON."""
ERROR = ord("E")
"""An AlsError as JSON; nothing follows."""

MAX_BODY = 16 << 20
"""More than the longest run: the headers of one entry alone may have 12 MiB (als.model.limits)."""
_HEADER = struct.Struct("<BI")
_READ_SIZE = 1 << 18
_WRITE_SIZE = 1 << 18
_MAX_PARTS = 1000
"""Less than IOV_MAX (writev(2))."""


class FrameWriter:
    """Writes frames to a descriptor, small ones gathered."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def write(self, kind: int, *body: bytes | memoryview) -> None:
        """Append a frame; the parts of its body must not change before the next `flush`, which is called here where enough has
        gathered."""
        size = sum(map(len, body))
        self._parts += (_HEADER.pack(kind, size), *body)
        self._size += _HEADER.size + size
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
            written = os.writev(self._fd, parts[:_MAX_PARTS])
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
    :param kept: how many frames in a row are valid at once.
    """

    def __init__(self, fd: int, idle: Callable[[], None], *, tick: float = 0.5, kept: int = 1) -> None:
        self._fd = fd
        self._idle = idle
        self._tick_ms = int(tick * 1000)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._header = bytearray(_HEADER.size)
        # Not bytearrays, which would be filled with zeros: of these, what no frame reaches takes neither memory nor time.
        self._buffers = [memoryview(mmap.mmap(-1, MAX_BODY)) for _ in range(kept)]

    def frames(self) -> Iterator[tuple[int, memoryview]]:
        """Each frame; its body is valid until `kept` more are asked for. An ERROR frame is raised.

        :raises WorkerError: the worker broke the protocol or ended without END.
        """
        for buffer in itertools.cycle(self._buffers):
            self._fill(memoryview(self._header))
            kind, length = _HEADER.unpack(self._header)
            if length > MAX_BODY:
                raise WorkerError(f"a worker sent a frame of {length} bytes")
            body = buffer[:length]
            self._fill(body)
            if kind == ERROR:
                raise unpack_error(bytes(body))
            yield kind, body
            if kind == END:
                return

    def _fill(self, view: memoryview) -> None:
        while view:
            while not self._poll.poll(self._tick_ms):
                self._idle()
            try:
                count = os.readv(self._fd, [view])
            except ConnectionResetError:
                count = 0
            if not count:
                raise WorkerError(
                    "a worker ended without an answer", hint="look into the log for why; it may have run out of memory"
                )
            view = view[count:]


def exactly(link: socket.socket, size: int) -> bytes:
    """So many bytes that are sent beside frames.

    :raises BrokenPipeError: there are fewer; who sends has lost interest.
    """
    data = bytearray()
    while len(data) < size:
        piece = link.recv(min(size - len(data), _READ_SIZE))
        if not piece:
            raise BrokenPipeError
        data += piece
    return bytes(data)


def until_end(link: socket.socket) -> Iterator[bytes]:
    """All that is sent until the other side has sent all."""
    while piece := link.recv(_READ_SIZE):
        yield piece


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
