"""The entries of a table of contents: what they mean, in all the dialects there are.

The fields are described in stargz-snapshotter's ``docs/estargz.md`` and, for those that podman's zstd:chunked adds, in
containers/storage's ``pkg/chunked/internal/minimal/compression.go``:

* A file's first chunk is in its own entry, each further one in an entry of type ``chunk`` that follows it. ``chunkSize`` is
  absent where the chunk ends with the file.
* ``offset`` is where the unit with the chunk begins, ``innerOffset`` where in the unit's uncompressed bytes the chunk does.
* A unit reaches up to the next one's ``offset``; it also holds the tar headers in between, after its chunks. In podman's
  dialect the file has an ``endOffset``, and the headers are in frames of their own.
* ``chunkType`` is ``zeros`` for a hole (podman); everything else is data.
* ``chunkDigest`` may be absent where a file has a single chunk and a ``digest`` (podman).
* ``modtime`` is absent for the epoch; eStargz rounds it to seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from als.errors import BadImage
from als.formats.index import Prefetch
from als.formats.indexbuilder import ChunkRow, IndexBuilder
from als.formats.indexrows import Watch, unwatched
from als.formats.plainrows import PlainRows
from als.formats.toc.document import ArrayDocument
from als.formats.toc.fields import Raw, Times, check_spelling, digest, integer, integers, text, where_of, xattrs
from als.formats.toc.plain import plain_rows
from als.model.entry import Entry, EntryType
from als.model.limits import Limits

VERSION = 1
TOC_NAME = b"stargz.index.json"
LANDMARK = b".prefetch.landmark"
NO_PREFETCH = b".no.prefetch.landmark"
BOOKKEEPING = frozenset((TOC_NAME, LANDMARK, NO_PREFETCH))
"""What stargz-snapshotter adds to a layer's root for itself."""
_TYPES = {
    "reg": EntryType.FILE,
    "dir": EntryType.DIR,
    "symlink": EntryType.SYMLINK,
    "hardlink": EntryType.HARDLINK,
    "char": EntryType.CHAR,
    "block": EntryType.BLOCK,
    "fifo": EntryType.FIFO,
}
_BOOKKEEPING = tuple(BOOKKEEPING)
_NO_DEVICE = (0, 0)
_FILE = EntryType.FILE
_BLOCK = 256
"""So many entries are read at a time, if they are plain."""
_OWNER = ("mode", "uid", "gid")
_OF_CHUNK = ("chunkOffset", "chunkSize", "offset", "innerOffset")
_OF_EMPTY_FILE = (*_OWNER, "size", "endOffset")
_OF_FILE = (*_OF_EMPTY_FILE, *_OF_CHUNK)
_LINKS = (EntryType.SYMLINK, EntryType.HARDLINK)
_DEVICES = (EntryType.CHAR, EntryType.BLOCK)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a table of contents says beside its entries."""

    prefetch: Prefetch
    tar_split_digest: str


class _Pending(NamedTuple):
    """An entry whose chunks are still being read."""

    entry: Entry
    sha256: bytes | None
    rows: list[ChunkRow]


class TocReader:
    """Reads one table of contents into an index; used once.

    :param bookkeeping: the entries that stargz-snapshotter adds (the table of contents and the landmarks) are not the layer's.
    :param watch: told of the columns of the index while they grow.
    """

    def __init__(self, builder: IndexBuilder, limits: Limits, *, bookkeeping: bool, watch: Watch = unwatched) -> None:
        self._builder = builder
        self._limits = limits
        self._bookkeeping = bookkeeping
        self._watch = watch
        self._times = Times()
        self._pending: _Pending | None = None
        self._end = 0
        """Where in the blob the pending entry's last unit ends, if that is said."""
        self._hidden: set[bytes] = set()
        self._prefetch = Prefetch()

    def read(self, pieces: Iterator[bytes]) -> Contents:
        """Take the whole text.

        :raises BadImage: it is malformed, or cannot be true.
        :raises LimitExceeded: there is more of something than the limits allow.
        """
        document = ArrayDocument(pieces, "entries", self._limits.header_bytes)
        block: list[Raw] = []
        for batch in document.batches():
            block += batch
            if len(block) >= _BLOCK:
                self._take(block)
                block.clear()
        self._take(block)
        self._flush()
        fields = document.fields
        if fields.get("version") != VERSION:
            raise BadImage(f"of version {str(fields.get('version'))[:20]!r}, not {VERSION}", where="table of contents")
        if any(name.casefold() in ("entries", "version", "tarsplitdigest") for name in fields if name not in _FIELDS):
            raise BadImage("a field is written in another case than it should be", where="table of contents")
        tar_split = fields.get("tarSplitDigest")
        if tar_split is not None and not isinstance(tar_split, str):
            raise BadImage("the field 'tarSplitDigest' is not a string", where="table of contents")
        return Contents(self._prefetch, tar_split or "")

    def _take(self, block: Sequence[Raw]) -> None:
        """Take elements: entries, and chunks of the entry before them. Of the last entry, more chunks may follow."""
        entries = [number for number, raw in enumerate(block) if raw.get("type") != "chunk"]
        first, last = (entries[0], entries[-1]) if entries else (len(block), len(block))
        for raw in block[:first]:
            self._add_row(raw)
        if not entries:
            return
        self._flush()
        borders = [*entries[: len(entries) - 1 : _BLOCK], last]
        for start, stop in pairwise(borders):
            self._take_whole(block[start:stop])
        for raw in block[last:]:
            self._take_one(raw)
        self._watch(self._builder.columns)

    def _take_whole(self, block: Sequence[Raw]) -> None:
        """Take entries with all of their chunks."""
        rows = plain_rows(block, self._times)
        if rows is None or not self._may_be_plain(rows) or not self._builder.add_plain(rows):
            for raw in block:
                self._take_one(raw)
            self._flush()

    def _take_one(self, raw: Raw) -> None:
        if raw.get("type") == "chunk":
            self._add_row(raw)
        else:
            self._flush()
            self._pending = self._begin(raw)

    def _may_be_plain(self, rows: PlainRows) -> bool:
        return not (self._bookkeeping and any(path.endswith(_BOOKKEEPING) for path in rows.paths))

    def _begin(self, raw: Raw) -> _Pending:
        check_spelling(raw)
        kind = raw.get("type")
        entry_type = _TYPES.get(kind) if isinstance(kind, str) else None
        if entry_type is None:
            raise BadImage(f"an entry of unknown type {str(kind)[:40]!r}", where=where_of(raw))
        mtime, mtime_ns = self._times.read(raw, "modtime")
        self._end = 0
        if entry_type is not _FILE:
            mode, uid, gid = integers(raw, _OWNER)
            entry = Entry(
                text(raw, "name"),
                entry_type,
                mode,
                uid,
                gid,
                mtime,
                mtime_ns,
                0,
                0,
                text(raw, "linkName") if entry_type in _LINKS else b"",
                (integer(raw, "devMajor"), integer(raw, "devMinor")) if entry_type in _DEVICES else _NO_DEVICE,
                xattrs(raw) if "xattrs" in raw else (),
            )
            return _Pending(entry, None, [])
        mode, uid, gid, size, self._end, *chunk = integers(raw, _OF_FILE if raw.get("size") else _OF_EMPTY_FILE)
        own = xattrs(raw) if "xattrs" in raw else ()
        entry = Entry(text(raw, "name"), _FILE, mode, uid, gid, mtime, mtime_ns, size, size, b"", _NO_DEVICE, own)
        sha256 = digest(raw, "digest")
        return _Pending(entry, sha256, [_row(raw, chunk, sha256)] if size else [])

    def _add_row(self, raw: Raw) -> None:
        check_spelling(raw)
        pending = self._pending
        if pending is None or not pending.rows:
            raise BadImage("a chunk that follows no file", where=where_of(raw))
        if len(pending.rows) > self._limits.chunks:
            raise BadImage("a file with too many chunks", where=where_of(raw))
        if text(raw, "name") not in (b"", pending.entry.path):
            raise BadImage("a chunk of another file than the one it follows", where=where_of(raw))
        self._end = integer(raw, "endOffset") or self._end
        pending.rows.append(_row(raw, integers(raw, _OF_CHUNK), None))

    def _flush(self) -> None:
        """The last entry is complete."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if self._bookkeeping and pending.entry.path.endswith(_BOOKKEEPING) and self._is_bookkeeping(pending):
            return
        self._builder.add(*pending, self._end)

    def _is_bookkeeping(self, pending: _Pending) -> bool:
        name = pending.entry.path
        name = name.removeprefix(b"/").removeprefix(b"./")
        if name not in BOOKKEEPING:
            return False
        if pending.entry.type is not _FILE or name in self._hidden:
            raise BadImage("an entry with a name that the format keeps for itself", where=name.decode())
        self._hidden.add(name)
        if name == NO_PREFETCH:
            self._prefetch = Prefetch(unwanted=True)
        elif name == LANDMARK and not self._prefetch.unwanted and pending.rows:
            self._prefetch = Prefetch(pending.rows[0].unit, len(self._builder))
        return True


_FIELDS = ("version", "tarSplitDigest")


def _row(raw: Raw, numbers: list[int], of_file: bytes | None) -> ChunkRow:
    """What an entry says of its chunk.

    :param numbers: its fields `_OF_CHUNK`.
    :param of_file: the file's digest, if the entry has it; of a small file it is the chunk's as well.
    """
    kind = raw.get("chunkType")
    if kind not in (None, "", "zeros"):
        raise BadImage(f"a chunk of unknown type {str(kind)[:40]!r}", where=where_of(raw))
    file_offset, size, unit, inner_offset = numbers
    same = of_file is not None and raw.get("chunkDigest") == raw["digest"]
    return ChunkRow(file_offset, size, unit, inner_offset, of_file if same else digest(raw, "chunkDigest"), kind == "zeros")
