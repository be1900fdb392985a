"""tar-split files for podman 4, made while they are read.

containers/storage keeps a gzip-compressed list of JSON objects (https://github.com/vbatts/tar-split, ``tar/storage``:
type Entry) from which it rebuilds a layer's tar stream. An ordinary list names files to be read below the layer's ``diff``,
which in podman 4's layout holds metadata only; so ours has nothing but segments (type 2, raw bytes in base64), the whole
stream. On disk that would be a second copy of the layer; made from recipe and objects on reading, it costs nothing.

The gzip member consists of stored blocks (RFC 1951, 3.2.4), so the file's size follows from the stream's size alone.
"""

from __future__ import annotations

import base64
import struct
import threading
import zlib
from collections.abc import Callable, Iterator

from als.errors import StoreDamaged

SEGMENT_BYTES = 3 << 14
"""Bytes of the tar stream in each JSON object: a multiple of 3, so that base64 needs no padding but at the end."""
_PREFIX = b'{"type":2,"payload":"'
_MIDDLE = b'","position":'
_SUFFIX = b"}\n"
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_BLOCK = 0xFFFF


def _digits_below(count: int) -> int:
    """How many digits all the numbers below `count` have together."""
    total, low, digits = 0, 0, 1
    while low < count:
        high = min(count, 10**digits)
        total += (high - low) * digits
        low, digits = high, digits + 1
    return total


def tar_split_size(stream_size: int) -> int:
    """Bytes of the tar-split file of a layer whose uncompressed stream has `stream_size` bytes."""
    full, rest = divmod(stream_size, SEGMENT_BYTES)
    count = full + (rest > 0)
    payload = full * (SEGMENT_BYTES // 3 * 4) + (rest + 2) // 3 * 4
    text = payload + count * (len(_PREFIX) + len(_MIDDLE) + len(_SUFFIX)) + _digits_below(count)
    blocks = max(1, -(-text // _BLOCK))
    return len(_GZIP_HEADER) + text + 5 * blocks + 8


def _lines(stream: Iterator[bytes]) -> Iterator[bytes]:
    position = 0
    pending = bytearray()
    for piece in stream:
        pending += piece
        while len(pending) >= SEGMENT_BYTES:
            yield _line(pending[:SEGMENT_BYTES], position)
            del pending[:SEGMENT_BYTES]
            position += 1
    if pending:
        yield _line(pending, position)


def _line(data: bytearray, position: int) -> bytes:
    return b"".join((_PREFIX, base64.b64encode(data), _MIDDLE, str(position).encode(), _SUFFIX))


def tar_split(stream: Iterator[bytes]) -> Iterator[bytes]:
    """The tar-split file of a tar stream, in pieces."""
    yield _GZIP_HEADER
    crc = length = 0
    pending = bytearray()
    for line in _lines(stream):
        crc = zlib.crc32(line, crc)
        length += len(line)
        pending += line
        # A block that might be the last one is held back: its header says whether it is.
        while len(pending) > _BLOCK:
            yield _stored(pending[:_BLOCK], final=False)
            del pending[:_BLOCK]
    yield _stored(pending, final=True)
    yield struct.pack("<II", crc, length & 0xFFFFFFFF)


def _stored(data: bytearray, *, final: bool) -> bytes:
    return struct.pack("<BHH", int(final), len(data), len(data) ^ 0xFFFF) + data


class TarSplitFile:
    """A tar-split file, readable at any offset; best read from start to end, because every step back starts anew.

    :param open_stream: gives the layer's tar stream from its start.
    """

    def __init__(self, open_stream: Callable[[], Iterator[bytes]], stream_size: int) -> None:
        self.size = tar_split_size(stream_size)
        self._open_stream = open_stream
        self._lock = threading.Lock()
        self._pieces: Iterator[bytes] = iter(())
        self._piece = b""
        self._start = self.size
        """Offset of `_piece` in the file; its initial value makes the first read start from the beginning."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`; fewer than `length` only at the end.

        :raises StoreDamaged: the layer's content is no longer what it was.
        """
        with self._lock:
            if offset < self._start:
                self._pieces, self._piece, self._start = tar_split(self._open_stream()), b"", 0
            end = min(offset + length, self.size)
            found = bytearray()
            while offset < end:
                skip = offset - self._start
                if skip < len(self._piece):
                    part = self._piece[skip : skip + end - offset]
                    found += part
                    offset += len(part)
                    continue
                self._start += len(self._piece)
                self._piece = next(self._pieces, b"")
                if not self._piece:
                    raise StoreDamaged("a layer's stream is shorter than it was", hint="remove the image and pull it again")
            return bytes(found)

    def close(self) -> None:
        with self._lock:
            self._pieces, self._piece = iter(()), b""
