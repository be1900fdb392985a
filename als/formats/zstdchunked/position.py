"""Where a zstd:chunked blob holds its table of contents and its tar-split: annotations, or the footer at its end.

containers/storage, ``pkg/chunked/internal/minimal/compression.go``. The annotations are decimal numbers with colons between
them: ``offset:length:uncompressed length:type`` of the table of contents (the type is 1) and the first three of these
for the tar-split. The footer is a skippable frame (RFC 8878, 3.1.2) of unsigned 64-bit numbers, least significant byte first:

* 64 bytes: offset, length, uncompressed length, type, then the three numbers of the tar-split, then the magic;
* 40 bytes (until 2023, and stargz-snapshotter's): without those of the tar-split.

The magic is ``GNUlInUx``, in the shorter one ``GnUlInUx``. All offsets are of the frames' content, 8 bytes into each frame.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from als.errors import BadImage

FRAME_HEADER = 8
SKIPPABLE = b"\x50\x2a\x4d\x18"
LONGEST = 64 + FRAME_HEADER
_MAGICS = (b"GNUlInUx", b"GnUlInUx")
_TYPE = 1
_MAX = (1 << 63) - 1
_NUMBERS = re.compile(r"(0|[1-9][0-9]{0,18})(?::(0|[1-9][0-9]{0,18})){2,3}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Part:
    """Compressed bytes within the blob."""

    offset: int
    length: int
    text_length: int
    """Bytes that they decompress to."""

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Position:
    """Where the table of contents is and, if there is one, the tar-split."""

    toc: Part
    tar_split: Part | None


def parse_annotations(toc: str, tar_split: str | None, blob_size: int) -> Position:
    """Read the annotations.

    :raises BadImage: they are malformed or point out of the blob.
    """
    offset, length, text_length, kind = _numbers(toc, 4)
    return _position((offset, length, text_length), kind, _numbers(tar_split, 3) if tar_split else None, blob_size)


def parse_footer(tail: bytes, blob_size: int) -> Position:
    """Read the footer from a blob's last bytes: `LONGEST` of them, or all of a smaller blob.

    :raises BadImage: there is none, or it points out of the blob.
    """
    if tail.endswith(_MAGICS):
        for size in (64, 40):
            frame = tail[-size - FRAME_HEADER :]
            if frame.startswith(SKIPPABLE + struct.pack("<I", size)) and len(frame) == size + FRAME_HEADER:
                offset, length, text_length, kind, *more = struct.unpack_from(f"<{size // 8 - 1}Q", frame, FRAME_HEADER)
                tar_split = tuple(more) if size == 64 and any(more) else None
                return _position((offset, length, text_length), kind, tar_split, blob_size)
    raise BadImage("no zstd:chunked footer", hint="the layer can only be read whole")


def _numbers(text: str, count: int) -> tuple[int, ...]:
    parts = text.split(":") if len(text) < 100 and _NUMBERS.fullmatch(text) else []
    if len(parts) != count:
        raise BadImage(f"a position that is none, {text[:80]!r}", where="annotations of the layer")
    return tuple(int(part) for part in parts)


def _position(toc: tuple[int, ...], kind: int, tar_split: tuple[int, ...] | None, blob_size: int) -> Position:
    if kind != _TYPE:
        raise BadImage(f"a zstd:chunked table of contents of unknown type {kind}")
    parts = [Part(*numbers) for numbers in (toc, tar_split) if numbers is not None]
    for part in parts:
        if part.offset < FRAME_HEADER or not part.length or part.end > blob_size or part.text_length > _MAX:
            raise BadImage(f"a part of the layer that is not within it, at {part.offset}")
    if len(parts) > 1 and max(part.offset for part in parts) - FRAME_HEADER < min(part.end for part in parts):
        raise BadImage("the tar-split overlaps the table of contents")
    return Position(parts[0], parts[1] if len(parts) > 1 else None)
