"""Compression of layers: streaming decompressors that never hold much more than a MiB, however far the bytes expand.

gzip goes through ISA-L (three times zlib's speed), zstd through ``zstandard``. What is accepted is what the clients' Go
libraries accept:

* gzip may have any number of members (eStargz: one for each file), but nothing else after the first: padding, zeros
  included, is an error to Go's ``compress/gzip`` and so it is here.
* zstd may have any number of frames, skippable ones included (zstd:chunked keeps its manifest in them). ``zstandard`` offers
  no bound on what a call returns, so frames are walked block by block (:mod:`als.formats.zstdframes`) and handed over a few
  blocks at a time, of which each yields at most 128 KiB.
* No bytes at all are an empty stream of either kind.

What kind it is the first bytes say, not the media type: registries hold layers whose type is wrong, and every client looks
at the bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Protocol, cast

import zstandard
from isal import isal_zlib

from als.errors import BadImage, LimitExceeded
from als.formats.gzipheader import MAGIC as GZIP_MAGIC
from als.formats.gzipheader import header_length
from als.formats.zstdframes import FrameWalker
from als.model.limits import DEFAULT_LIMITS, Limits

PIECE = 1 << 20
"""The most bytes in one piece of output."""
MAGIC_BYTES = 4
"""How many first bytes :func:`identify` looks at."""
_GZIP_WBITS = 31
_ISAL_ERROR = cast("type[Exception]", isal_zlib.error)
"""The library's stub declares the class as if it were an instance."""
_SMALLEST_INPUT = 4 << 10
_LARGEST_INPUT = 256 << 10
ZSTD_WINDOW = 128 << 20
"""The largest window: what ``zstd --long=27`` writes, and the most that the zstd tool reads without being told to."""


class Compression(enum.Enum):
    """How a layer blob is compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Decompressor(Protocol):
    """Decompresses one stream; used once."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next compressed bytes; each piece is at most `PIECE` bytes long. To be exhausted before the next call.

        :raises als.errors.BadImage: the bytes are not what the compression would have written.
        :raises als.errors.LimitExceeded: they expand beyond the set limits.
        """
        ...

    def finish(self) -> None:
        """The stream has ended.

        :raises als.errors.BadImage: it ended too early.
        """
        ...


def identify(first: bytes) -> Compression:
    """The compression of a blob from its first `MAGIC_BYTES` bytes (fewer, if it has no more)."""
    if first.startswith(GZIP_MAGIC):
        return Compression.GZIP
    if FrameWalker.is_frame(first):
        return Compression.ZSTD
    return Compression.NONE


def decompressor(compression: Compression, limits: Limits = DEFAULT_LIMITS) -> Decompressor:
    """A decompressor for one stream."""
    if compression is Compression.GZIP:
        return _Gzip(limits)
    if compression is Compression.ZSTD:
        return _Zstd(limits)
    return _Plain(limits)


class _Meter:
    """Counts what goes in and what comes out, and stops what expands too far."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken = 0
        self._given = 0

    def take(self, size: int) -> None:
        self._taken += size

    def give(self, size: int) -> None:
        self._given += size
        limits = self._limits
        if self._given > limits.layer_bytes:
            raise LimitExceeded(f"the layer holds more than {limits.layer_bytes} bytes")
        if self._given > limits.expansion_floor + limits.expansion * self._taken:
            raise LimitExceeded(f"the layer expands to more than {limits.expansion} times its size")


class _Plain:
    def __init__(self, limits: Limits) -> None:
        self._meter = _Meter(limits)

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._meter.take(len(data))
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self._meter.give(len(piece))
            yield piece

    def finish(self) -> None:
        """Whether it is whole is for the format to say."""


class _Gzip:
    def __init__(self, limits: Limits) -> None:
        self._meter = _Meter(limits)
        self._member: isal_zlib.Decompress | None = None
        self._header = b""
        """What is here of the next member's header."""
        self._slice = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._meter.take(len(data))
        view = memoryview(self._header + data if self._header else data)
        self._header = b""
        while view:
            if self._member is None:
                length = header_length(view)
                if length is None:
                    self._header = bytes(view)
                    return
                self._member = isal_zlib.decompressobj(_GZIP_WBITS)
                # The library copies what follows a member: of many small ones, not the whole of `data` each time.
                self._slice = length + _SMALLEST_INPUT
            yield from self._inflate(self._member, view[: self._slice])
            taken = min(self._slice, len(view))
            if self._member.eof:
                taken -= len(self._member.unused_data)
                self._member = None
            self._slice = min(2 * self._slice, _LARGEST_INPUT)
            view = view[taken:]

    def _inflate(self, member: isal_zlib.Decompress, data: memoryview) -> Iterator[bytes]:
        source: memoryview | bytes = data
        while True:
            try:
                piece = member.decompress(source, PIECE)
            except _ISAL_ERROR as error:
                raise BadImage(f"the gzip stream is damaged: {error}") from error
            self._meter.give(len(piece))
            if piece:
                yield piece
            source = member.unconsumed_tail
            if member.eof or (not source and len(piece) < PIECE):
                return

    def finish(self) -> None:
        if self._member is not None or self._header:
            raise BadImage("the gzip stream ends too early")


class _Zstd:
    def __init__(self, limits: Limits) -> None:
        self._meter = _Meter(limits)
        self._walker = FrameWalker(ZSTD_WINDOW, PIECE)
        self._context = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._frame = self._context.decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        for run in self._walker.feed(data):
            self._meter.take(len(run.data))
            if run.skippable:
                continue
            try:
                if run.first:
                    self._frame = self._context.decompressobj()
                output = self._frame.decompress(run.data)
            except zstandard.ZstdError as error:
                raise BadImage(f"the zstd stream is damaged: {error}") from error
            self._meter.give(len(output))
            for start in range(0, len(output), PIECE):
                yield output if len(output) <= PIECE else output[start : start + PIECE]

    def finish(self) -> None:
        if not self._walker.between_frames:
            raise BadImage("the zstd stream ends too early")
