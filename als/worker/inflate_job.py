"""The inflate worker: decompresses strangers' units, one batch after the other. It remembers nothing between them.

A request is a `HEAD`, a `UNIT` for each unit, and then the compressed bytes of all of them; it is read to its end before the
first byte of an answer is written, so that neither side waits for the other. Each unit is answered by DATA frames and END, or
by ERROR at any point. What comes is believed as little as what any worker says: digests are for the privileged side to check.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from als.errors import AlsError, BadImage, LimitExceeded
from als.formats.codecs import Compression, decompressor
from als.worker.frames import DATA, END, FrameWriter, exactly

HEAD = struct.Struct("<BBI")
"""The compression's number in `COMPRESSIONS`, whether units are to be read to their very end, how many there are."""
UNIT = struct.Struct("<IQ")
"""Compressed bytes, and the most bytes that may come out."""
COMPRESSIONS = tuple(Compression)
_FEED = 1 << 18


def run(_params: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Serve requests on ``fds[0]`` until the other side closes it."""
    with socket.socket(fileno=fds[0]) as requests:
        out = FrameWriter(requests.fileno())
        while (head := _read(requests, HEAD.size)) is not None:
            kind, whole, count = HEAD.unpack(head)
            units = [UNIT.unpack(exactly(requests, UNIT.size)) for _ in range(count)]
            data = [exactly(requests, length) for length, _ in units]
            for (_, most), each in zip(units, data, strict=True):
                _answer(out, COMPRESSIONS[kind], each, most, whole=bool(whole))
            out.flush()


def _answer(out: FrameWriter, compression: Compression, data: bytes, most: int, *, whole: bool) -> None:
    try:
        for piece in inflated(compression, data, most, whole=whole):
            out.write(DATA, piece)
        out.write_json(END, {})
    except AlsError as error:
        out.write_error(error)
    except MemoryError:
        out.write_error(BadImage("it needs more memory than a worker may have"))


def inflated(compression: Compression, data: bytes, most: int, *, whole: bool) -> Iterator[bytes]:
    """What a unit holds.

    :param whole: to its end, which may not be beyond `most` bytes; otherwise no more than the first `most`.
    :raises BadImage: it is damaged.
    :raises LimitExceeded: there is more of it than there may be.
    """
    codec = decompressor(compression)
    left = most
    for start in range(0, len(data), _FEED):
        for piece in codec.feed(data[start : start + _FEED]):
            if len(piece) > left and whole:
                raise LimitExceeded(f"it holds more than {most} bytes")
            if left:
                yield piece[:left]
            left -= min(left, len(piece))
            if not left and not whole:
                return
    codec.finish()


def _read(requests: socket.socket, size: int) -> bytes | None:
    """So many bytes, or None at the end."""
    try:
        return exactly(requests, size)
    except BrokenPipeError:
        return None
