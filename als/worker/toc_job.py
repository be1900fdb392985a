"""Two workers that read a layer's table of contents for the privileged side, which has them started one after the other.

The *finder* asks for ranges of the blob, finds the table of contents in them and decompresses it::

    finder -> ASK {"offset", "length", "toc_at"} or {"toc_of", "max"}    als -> u64 length, so many bytes; a few times
    finder -> FOUND {what :class:`als.formats.lazy.FoundToc` says beside the data}, DATA... (the JSON), END

The *indexer* gets that JSON until the end of its input, and answers with DATA frames of the packed index
(als.formats.indexfile) and END. Either may answer ERROR at any time. Meanwhile it writes the entries, as they come, to whoever
makes the layer's image (:mod:`als.worker.image_job`).

They are two because of what the manifest commits to: of eStargz that is the JSON. How it is compressed is for whoever made the
blob to choose, and might overcome the process that decompresses it; that process could then hand over another layer's JSON and
whatever index it likes. So the privileged side hashes the JSON on its way to a process that has seen nothing else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from als.errors import AlsError, BadImage
from als.formats.discovery import find_indexed
from als.formats.index import Columns
from als.formats.indexfile import pack
from als.formats.indexrows import pack_rows, unwatched
from als.formats.lazy import BlobRange, FoundToc, IndexedFormat, Request
from als.model.digest import Digest
from als.model.limits import Limits
from als.model.manifest import Descriptor
from als.worker.frames import DATA, END, FrameWriter, exactly, until_end
from als.worker.image_job import ROWS

ASK = ord("A")
FOUND = ord("F")
LENGTH = struct.Struct("<Q")
_PIECE = 1 << 20
_RUN_ENTRIES = 1000
"""So many at least are sent at once: some hundred kilobytes."""


@dataclass(frozen=True, slots=True)
class TocRequest:
    """A layer whose table of contents is wanted."""

    format: str
    """Name of the lazily readable format."""
    layer: Descriptor
    limits: Limits

    def to_json(self) -> dict[str, object]:
        layer = self.layer
        return {
            "format": self.format,
            "layer": [layer.media_type, str(layer.digest), layer.size, dict(layer.annotations)],
            "limits": asdict(self.limits),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TocRequest:
        media_type, digest, size, annotations = value["layer"]
        return cls(value["format"], Descriptor(media_type, Digest.parse(digest), size, annotations), Limits(**value["limits"]))


class TocJobs:
    """What the two workers do. Made in the zygote, which still has files to find the formats in."""

    def __init__(self) -> None:
        self._formats: dict[str, IndexedFormat] = {each.name: each for each in find_indexed()}

    def find(self, params: Mapping[str, Any], fds: Sequence[int]) -> None:
        """The finder, on the socket ``fds[0]``.

        :param params: see :class:`TocRequest`.
        """
        with socket.socket(fileno=fds[0]) as link:
            out = FrameWriter(link.fileno())
            _reporting(out, lambda: self._find(TocRequest.from_json(params), link, out))

    def index(self, params: Mapping[str, Any], fds: Sequence[int]) -> None:
        """The indexer, on the socket ``fds[0]``; entries go to ``fds[1]``, where there is one.

        :param params: see :class:`TocRequest`; ``found``: what the finder said.
        """
        with socket.socket(fileno=fds[0]) as link:
            out = FrameWriter(link.fileno())
            rows = _Rows(fds[1]) if len(fds) > 1 else None
            _reporting(out, lambda: self._index(TocRequest.from_json(params), unpack_found(params["found"]), link, out, rows))

    def _find(self, request: TocRequest, link: socket.socket, out: FrameWriter) -> None:
        wanted = self._formats[request.format]
        finder = wanted.find(request.layer, request.limits)
        try:
            ask = next(finder)
            while True:
                out.write_json(ASK, _ask(ask))
                out.flush()
                ask = finder.send(_answer(link))
        except StopIteration as stop:
            found = stop.value
        assert isinstance(found, FoundToc)
        out.write_json(FOUND, pack_found(found))
        for piece in wanted.text(found, request.limits):
            for start in range(0, len(piece), _PIECE):
                out.write(DATA, piece[start : start + _PIECE])

    def _index(self, request: TocRequest, found: FoundToc, link: socket.socket, out: FrameWriter, rows: _Rows | None) -> None:
        watch = unwatched if rows is None else rows.grown
        index = self._formats[request.format].parse(until_end(link), request.layer, found, request.limits, watch)
        if rows is not None:
            rows.finish(index.columns)
        for piece in pack(index):
            for start in range(0, len(piece), _PIECE):
                out.write(DATA, piece[start : start + _PIECE])


class _Rows:
    """Sends an index's entries while it grows."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._out: FrameWriter | None = FrameWriter(fd)
        self._sent = 0

    def grown(self, columns: Columns) -> None:
        """There is more of them."""
        count = len(columns.kinds)
        if self._out is not None and count - self._sent >= _RUN_ENTRIES:
            self._send(self._out, columns, count)

    def finish(self, columns: Columns) -> None:
        """There is no more."""
        if self._out is not None:
            self._send(self._out, columns, len(columns.kinds))
        if self._out is not None:
            self._out.write_json(END, {})
            with contextlib.suppress(BrokenPipeError):
                self._out.flush()
        os.close(self._fd)

    def _send(self, out: FrameWriter, columns: Columns, count: int) -> None:
        try:
            if count > self._sent:
                out.write(ROWS, pack_rows(columns, self._sent, count))
                out.flush()
        except BrokenPipeError:
            # Who makes the image has given up; the index is wanted all the same.
            self._out = None
        self._sent = count


def pack_found(found: FoundToc) -> dict[str, object]:
    """All but the data, as JSON."""
    return {
        "payload_end": found.payload_end,
        "gap": found.gap,
        "text_length": found.text_length,
        "tar_split": found.tar_split,
    }


def unpack_found(value: Mapping[str, Any]) -> FoundToc:
    """What :func:`pack_found` made.

    :raises ValueError: it did not make that.
    """
    gap, tar_split = _numbers(value.get("gap"), 2), _numbers(value.get("tar_split"), 3)
    (payload_end,) = _numbers([value.get("payload_end")], 1) or (0,)
    text_length = value.get("text_length")
    return FoundToc(
        b"",
        payload_end,
        None if gap is None else (gap[0], gap[1]),
        None if text_length is None else (_numbers([text_length], 1) or (0,))[0],
        None if tar_split is None else (tar_split[0], tar_split[1], tar_split[2]),
    )


def _numbers(value: object, count: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != count:
        raise ValueError("not a list of that many numbers")
    if any(type(each) is not int or not 0 <= each < 1 << 63 for each in value):
        raise ValueError("not a number")
    return tuple(value)


def _reporting(out: FrameWriter, work: Callable[[], None]) -> None:
    try:
        work()
        out.write_json(END, {})
    except AlsError as error:
        out.write_error(error)
    except (struct.error, OverflowError) as error:
        out.write_error(BadImage(f"a number is out of range: {error}"))
    except MemoryError:
        out.write_error(BadImage("it needs more memory than a worker may have"))
    out.flush()


def _ask(request: Request) -> dict[str, object]:
    if isinstance(request, BlobRange):
        return {"offset": request.offset, "length": request.length, "toc_at": request.toc_at}
    return {"toc_of": str(request.layer), "max": request.max_bytes}


def _answer(link: socket.socket) -> bytes:
    (length,) = LENGTH.unpack(exactly(link, LENGTH.size))
    return exactly(link, length)
