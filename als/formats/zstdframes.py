"""The outer structure of a zstd stream: frames and, within them, blocks (RFC 8878, section 3.1).

Nothing is decompressed here. The walker cuts a stream into runs of which none can decompress to more than a set number of
bytes, tells where frames begin, and knows whether the stream may end where it does.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from als.errors import BadImage, LimitExceeded

_MAGIC = 0xFD2FB528
_SKIPPABLE_MAGIC = 0x184D2A50
_SKIPPABLE_MASK = 0xFFFFFFF0
_BLOCK_MAX = 128 << 10
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_DICTIONARY_BYTES = (0, 1, 2, 4)
_RLE_BLOCK = 1
_RESERVED_BLOCK = 3


@dataclass(frozen=True, slots=True)
class Run:
    """Bytes of a single frame."""

    data: bytes
    first: bool
    """They are the frame's first."""
    skippable: bool
    """The frame is one to be passed over."""


class _At(enum.Enum):
    MAGIC = enum.auto()
    SKIPPABLE_SIZE = enum.auto()
    DESCRIPTOR = enum.auto()
    FRAME_HEADER = enum.auto()
    BLOCK_HEADER = enum.auto()
    CHECKSUM = enum.auto()


class FrameWalker:
    """Cuts one stream; used once.

    :param window: the largest window that a frame may ask for, in bytes.
    :param yield_bytes: what a run may decompress to, at least 256 KiB.
    """

    def __init__(self, window: int, yield_bytes: int) -> None:
        self._window = window
        self._blocks_per_run = yield_bytes // _BLOCK_MAX - 1
        """One less than would fill it: a run may complete a block that the one before began."""
        self._at = _At.MAGIC
        self._need = 4
        self._field = bytearray()
        """What is here of the `_need` bytes that tell how to go on."""
        self._body = 0
        """Bytes to pass over before the next field."""
        self._descriptor = 0
        self._skippable = False
        self._first = True
        self._blocks = 0
        self._held = b""
        """The beginning of a frame's magic, which does not yet tell what kind of frame it is."""

    @staticmethod
    def is_frame(first: bytes) -> bool:
        """Whether a stream with these first four bytes is one of zstd."""
        magic = int.from_bytes(first[:4], "little")
        return len(first) >= 4 and (magic == _MAGIC or magic & _SKIPPABLE_MASK == _SKIPPABLE_MAGIC)

    @property
    def between_frames(self) -> bool:
        """Whether the stream may end here."""
        return self._at is _At.MAGIC and not self._body and not self._field

    def feed(self, data: bytes) -> Iterator[Run]:
        """Cut the next bytes. Together the runs of a whole stream are its bytes.

        :raises BadImage: there is something else than frames and blocks.
        :raises LimitExceeded: a frame wants a larger window.
        """
        position = start = 0
        while position < len(data):
            if self._body:
                step = min(self._body, len(data) - position)
                self._body -= step
                position += step
            else:
                step = min(self._need - len(self._field), len(data) - position)
                self._field += data[position : position + step]
                position += step
                if len(self._field) == self._need:
                    field = int.from_bytes(self._field, "little")
                    self._field.clear()
                    self._advance(field)
            ends = self.between_frames
            if ends or self._blocks >= self._blocks_per_run:
                yield self._run(data[start:position])
                start = position
                self._first = ends
        if self._at is _At.MAGIC and not self._body:
            self._held += data[start:]
        elif position > start:
            yield self._run(data[start:])

    def _run(self, data: bytes) -> Run:
        run = Run(self._held + data, self._first, self._skippable)
        self._held = b""
        self._first = False
        self._blocks = 0
        return run

    def _advance(self, field: int) -> None:
        """A field is complete: what comes next."""
        if self._at is _At.MAGIC:
            self._magic(field)
        elif self._at is _At.SKIPPABLE_SIZE:
            self._body = field
            self._expect(_At.MAGIC, 4)
        elif self._at is _At.DESCRIPTOR:
            self._describe(field)
        elif self._at is _At.FRAME_HEADER:
            self._check_window(field)
            self._expect(_At.BLOCK_HEADER, 3)
        elif self._at is _At.BLOCK_HEADER:
            self._block(field)
        else:
            self._expect(_At.MAGIC, 4)

    def _expect(self, at: _At, need: int) -> None:
        self._at, self._need = at, need

    def _magic(self, field: int) -> None:
        self._skippable = field & _SKIPPABLE_MASK == _SKIPPABLE_MAGIC
        if self._skippable:
            self._expect(_At.SKIPPABLE_SIZE, 4)
        elif field == _MAGIC:
            self._expect(_At.DESCRIPTOR, 1)
        else:
            raise BadImage("the zstd stream goes on with something that is no frame")

    def _describe(self, descriptor: int) -> None:
        """The frame header's length follows from its first byte: window, dictionary ID, content size."""
        self._descriptor = descriptor
        single_segment = descriptor >> 5 & 1
        content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
        self._expect(_At.FRAME_HEADER, (not single_segment) + _DICTIONARY_BYTES[descriptor & 3] + content_size)

    def _check_window(self, header: int) -> None:
        if self._descriptor >> 5 & 1:
            size_bytes = _CONTENT_SIZE_BYTES[self._descriptor >> 6] or 1
            window = header >> 8 * _DICTIONARY_BYTES[self._descriptor & 3]
            window += 256 if size_bytes == 2 else 0
        else:
            base = 1 << (10 + (header >> 3 & 31))
            window = base + base // 8 * (header & 7)
        if window > self._window:
            raise LimitExceeded(f"a zstd frame wants a window of {window} bytes")

    def _block(self, header: int) -> None:
        kind = header >> 1 & 3
        size = header >> 3
        if kind == _RESERVED_BLOCK or size > _BLOCK_MAX:
            raise BadImage("the zstd stream is damaged: a block that cannot be")
        self._blocks += 1
        self._body = 1 if kind == _RLE_BLOCK else size
        if not header & 1:
            return
        if self._descriptor & 4:
            self._expect(_At.CHECKSUM, 4)
        else:
            self._expect(_At.MAGIC, 4)
