"""The seal worker: holds a lazily read layer's index to the headers of its stream, and reads its tar-split.

What arrives on ``fds[0]`` is a u64 length and so many bytes of the packed index (als.formats.indexfile), and then, by
``params["kind"]``:

- ``tar-split``: the layer's tar-split as it is in the blob. What goes out on ``fds[1]`` is the stream: DATA frames with bytes
  of it, and FILE frames with the number of the entry whose content belongs there.
- ``rest``: the stream with its files left out: records of a byte, a u64 length and, after ``S``, so many bytes of the stream;
  after ``F`` none: so many bytes of files belong there.

In both cases the headers are compared with the index as they pass, and END says that they tell of the same layer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from als.errors import AlsError, BadImage, WorkerError
from als.formats.headercheck import check_headers, headers_of
from als.formats.index import LayerIndex
from als.formats.indexfile import unpack
from als.formats.zstdchunked.tarsplit import FileRef, joined, parse, tar_split_text, zero_filled
from als.model.limits import DEFAULT_LIMITS
from als.worker.frames import DATA, END, FrameWriter

FILE = ord("F")
"""The content of an entry belongs here: its number, a u64."""
LENGTH = struct.Struct("<Q")
RECORD = struct.Struct("<cQ")
_INDEX_MAX = 2 << 30
_PIECE = 1 << 20


def run(params: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Check one layer; see the module."""
    source, sink = fds
    out = FrameWriter(sink)
    try:
        with open(source, "rb") as file:  # noqa: PTH123  (a descriptor)
            (length,) = LENGTH.unpack(_exactly(file.read(LENGTH.size), LENGTH.size))
            if length > _INDEX_MAX:
                raise BadImage("its index is too large")
            index = unpack(_exactly(file.read(length), length))
            if params["kind"] == "tar-split":
                _tar_split(index, file.read(DEFAULT_LIMITS.toc_bytes + 1), out)
            else:
                check_headers(index, headers_of(_records(file)))
        out.write_json(END, {})
    except AlsError as error:
        out.write_error(error)
    except MemoryError:
        # Not the layer's fault: it is not to be refused for that.
        out.write_error(WorkerError("it needs more memory than a worker may have"))
    out.flush()


def _tar_split(index: LayerIndex, compressed: bytes, out: FrameWriter) -> None:
    where = index.tar_split
    if where is None:
        raise BadImage("the layer has no tar-split")
    check_headers(index, headers_of(zero_filled(parse(tar_split_text(compressed, where)))))
    for part in joined(index, parse(tar_split_text(compressed, where))):
        if isinstance(part, bytes):
            for start in range(0, len(part), _PIECE):
                out.write(DATA, part[start : start + _PIECE])
        else:
            out.write(FILE, LENGTH.pack(part.number))


def _records(file: BinaryIO) -> Iterator[bytes]:
    """The stream, with zeros in place of the files' content."""
    while header := file.read(RECORD.size):
        kind, length = RECORD.unpack(_exactly(header, RECORD.size))
        if kind == b"S":
            while length:
                data = file.read(min(length, _PIECE))
                if not data:
                    raise BadImage("the stream ends early")
                length -= len(data)
                yield data
        else:
            yield from zero_filled([FileRef(b"", length)])


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise BadImage("the request ends early")
    return data
