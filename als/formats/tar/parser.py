"""The archive as a whole: a state machine fed with the stream in pieces of any size.

Only headers are ever copied. A file's bytes leave as views of the piece they came in, and what lies between files is cut
out of it in one slice up to the next file's content. The archive's meaning is that of Go's ``archive/tar`` together with
containers/storage (``pkg/archive``):

* Two zero blocks end the archive; whatever follows is passed on unread. A missing end is tolerated at a block boundary, so is
  missing padding after the last file. A single zero block before other data is an error.
* Links, directories, devices and fifos have no payload whatever their size field says.
* Typeflag NUL with a trailing slash is a directory (v7).
* Other typeflags than those known here are refused, for containers/storage refuses them ("unhandled tar header type"): the
  volume labels, multi-volume parts and dump directories of GNU tar, for instance.

* A global PAX header changes nothing (see :mod:`als.formats.tar.pax`), but what preceded it no longer applies.

Beyond it, contiguous files (``7``) and GNU's old sparse files (``S``), which containers/storage refuses, are read as files,
and times of access and change are not looked at, so a malformed one is no error here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from als.errors import BadImage, LimitExceeded, Unsupported
from als.formats.base import Begin, Event, Payload, Segment
from als.formats.tar import sparse
from als.formats.tar.headers import BLOCK, ZERO_BLOCK, Header, parse_header, until_nul
from als.formats.tar.pax import Records, amend, parse_records, xattrs_of
from als.model.entry import Entry, EntryType
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.paths import show

_TYPES = {
    b"\0": EntryType.FILE,
    b"0": EntryType.FILE,
    b"7": EntryType.FILE,
    b"S": EntryType.FILE,
    b"1": EntryType.HARDLINK,
    b"2": EntryType.SYMLINK,
    b"3": EntryType.CHAR,
    b"4": EntryType.BLOCK,
    b"5": EntryType.DIR,
    b"6": EntryType.FIFO,
}
_EXTENDED = frozenset(b"xgLK")
_Step = Callable[[bytes], Entry | None]


class TarParser:
    """Implements :class:`als.formats.base.StreamParser`."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._step: _Step = self._header
        """What to do with the next `_need` bytes of headers."""
        self._need = BLOCK
        self._partial = bytearray()
        self._payload = 0
        self._padding = 0
        self._zero_block = False
        self._ended = False
        self._total = 0
        """Bytes of the stream, and of the holes in its files."""
        self._records: Records = {}
        self._long_name = b""
        self._long_link = b""

    def feed(self, data: bytes) -> Iterator[Event]:
        """See :class:`~als.formats.base.StreamParser`; to be exhausted before the next call.

        Where a payload follows, all bytes before it leave ahead of its `Begin`; the headers of entries without one may
        leave after theirs, together with those of the next.
        """
        end = len(data)
        self._charge(end)
        view = memoryview(data)
        position = emitted = 0
        while position < end:
            if self._payload:
                if position > emitted:
                    yield Segment(data[emitted:position])
                emitted = min(end, position + self._payload)
                self._payload -= emitted - position
                yield Payload(view[position:emitted])
                position = emitted
            elif self._padding:
                skipped = min(self._padding, end - position)
                self._padding -= skipped
                position += skipped
            elif self._ended:
                position = end
            else:
                stop = min(end, position + self._need - len(self._partial))
                block = data[position:stop]
                position = stop
                if self._partial or len(block) < self._need:
                    self._partial += block
                    if len(self._partial) < self._need:
                        break
                    block = bytes(self._partial)
                    self._partial.clear()
                entry = self._step(block)
                if entry is not None:
                    if self._payload and position > emitted:
                        yield Segment(data[emitted:position])
                        emitted = position
                    yield Begin(entry)
        if end > emitted:
            yield Segment(data[emitted:end])

    def finish(self) -> Iterator[Event]:
        """See :class:`~als.formats.base.StreamParser`. There are no further events."""
        if self._payload:
            raise BadImage(f"the tar archive ends {self._payload} bytes before the end of a file")
        if self._partial or self._step != self._header:
            raise BadImage("the tar archive ends within a header")
        return iter(())

    def _charge(self, size: int) -> None:
        self._total += size
        if self._total > self._limits.layer_bytes:
            raise LimitExceeded(f"the layer holds more than {self._limits.layer_bytes} bytes")

    # -- steps: what a complete header means; each sets the next step

    def _header(self, block: bytes) -> Entry | None:
        if block == ZERO_BLOCK:
            self._ended = self._zero_block
            self._zero_block = True
            return None
        if self._zero_block:
            raise BadImage("a single zero block within the tar archive")
        header = parse_header(block)
        if header.typeflag[0] in _EXTENDED:
            self._expect_extended(header)
            return None
        records = self._records
        if records:
            header = amend(header, records)
            self._records = {}
        if self._long_name or self._long_link:
            name, link = self._long_name or header.name, self._long_link or header.linkname
            header = header._replace(name=name, linkname=link)
            self._long_name = self._long_link = b""
        kind = _TYPES.get(header.typeflag)
        if kind is EntryType.FILE:
            return self._file(header, records, block)
        if kind is None:
            raise Unsupported(f"a tar entry of unknown type {header.typeflag!r}", where=show(header.name))
        if sparse.pax_version(records):
            raise BadImage("a sparse file that is none", where=show(header.name))
        return _entry(header, kind, records)

    def _expect_extended(self, header: Header) -> None:
        """Read the content of an extended header as the next step."""
        size = header.size
        if size < 0:
            raise BadImage("an extended header of negative size")
        if size > self._limits.header_bytes:
            raise LimitExceeded(f"an extended header of {size} bytes")

        def step(padded: bytes) -> None:
            self._next_header()
            self._extended(header.typeflag, padded[:size])

        if size:
            self._step, self._need = step, size + -size % BLOCK
        else:
            step(b"")

    def _next_header(self) -> None:
        self._step, self._need = self._header, BLOCK

    def _extended(self, typeflag: bytes, content: bytes) -> None:
        if typeflag == b"L":
            self._long_name = until_nul(content)
        elif typeflag == b"K":
            self._long_link = until_nul(content)
        elif typeflag == b"x":
            self._records = parse_records(content)
        else:
            parse_records(content)
            # Go hands a global header out as an entry of its own, which ends what preceded it.
            self._records, self._long_name, self._long_link = {}, b"", b""

    # -- regular files

    def _file(self, header: Header, records: Records, block: bytes) -> Entry | None:
        if header.typeflag == b"\0" and header.name.endswith(b"/"):
            return _entry(header, EntryType.DIR, records)
        stored = header.size
        if stored < 0:
            raise BadImage("a file of negative size", where=show(header.name))
        self._padding = -stored % BLOCK
        if header.typeflag == b"S":
            return self._old_sparse(header, records, block)
        version = sparse.pax_version(records) if records else None
        if version is None:
            return self._begin(_entry(header, EntryType.FILE, records, stored, stored))
        header = header._replace(name=sparse.pax_name(records, header.name))
        size = sparse.pax_size(records, stored)
        if version == "0":
            return self._begin_sparse(header, records, size, stored, sparse.pax_map(records))
        self._expect_pax_map(header, records, size)
        return None

    def _begin(self, entry: Entry) -> Entry:
        if entry.size > self._limits.file_bytes or entry.stored > self._limits.file_bytes:
            raise LimitExceeded(f"a file of {max(entry.size, entry.stored)} bytes", where=show(entry.path))
        self._payload = entry.stored
        return entry

    def _begin_sparse(self, header: Header, records: Records, size: int, stored: int, found: list[sparse.Extent]) -> Entry:
        extents = sparse.checked(found, size, stored)
        self._charge(size - stored)
        return self._begin(_entry(header, EntryType.FILE, records, size, stored, extents))

    def _old_sparse(self, header: Header, records: Records, block: bytes) -> Entry | None:
        if not header.gnu:
            raise Unsupported("a sparse file in the format of star", where=show(header.name))
        size = sparse.old_gnu_size(block)
        extents, extended = sparse.old_gnu_map(block, extension=False)
        if not extended:
            return self._begin_sparse(header, records, size, header.size, extents)
        padding, self._padding = self._padding, 0

        def step(extension: bytes) -> Entry | None:
            more, further = sparse.old_gnu_map(extension, extension=True)
            extents.extend(more)
            if further:
                self._charge_map(len(extents))
                return None
            self._next_header()
            self._padding = padding
            return self._begin_sparse(header, records, size, header.size, extents)

        self._step, self._need = step, BLOCK
        return None

    def _charge_map(self, runs: int) -> None:
        if runs * 24 > self._limits.header_bytes:
            raise LimitExceeded(f"a sparse map of more than {runs} runs")

    def _expect_pax_map(self, header: Header, records: Records, size: int) -> None:
        """Read the sparse map before the file's data as the next step."""
        reader = sparse.PaxMapReader(self._limits.header_bytes)
        padding, self._padding = self._padding, 0

        def step(block: bytes) -> Entry | None:
            if reader.bytes_read + BLOCK > header.size:
                raise BadImage("a sparse map leads beyond what is stored", where=show(header.name))
            if not reader.feed(block):
                return None
            self._next_header()
            self._padding = padding
            return self._begin_sparse(header, records, size, header.size - reader.bytes_read, reader.extents())

        self._step, self._need = step, BLOCK


def _entry(
    header: Header,
    kind: EntryType,
    records: Records,
    size: int = 0,
    stored: int = 0,
    extents: tuple[sparse.Extent, ...] | None = None,
) -> Entry:
    return Entry(
        header.name,
        kind,
        header.mode,
        header.uid,
        header.gid,
        header.mtime,
        header.mtime_ns,
        size,
        stored,
        header.linkname,
        header.rdev,
        xattrs_of(records) if records else (),
        extents,
    )
