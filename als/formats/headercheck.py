"""Whether a layer's index and the headers of its stream tell of the same layer.

The manifest commits to both, so neither is forged; but whoever made the image may have made them differ, so that one client
sees another layer than the next. containers/storage refuses such layers (``ensureTOCMatchesTarSplit``). The headers come from a
tar-split, at once, or from the stream when all of it is here::

    check_headers(index, headers_of(event.data for event in read_stream(...) if not isinstance(event, Verified)))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from als.errors import BadImage
from als.formats.base import Begin
from als.formats.index import LayerIndex
from als.formats.tar.parser import TarParser
from als.formats.toc.entries import BOOKKEEPING
from als.model.entry import Entry, EntryType
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import STARGZ_TOC
from als.model.paths import show

_DEVICES = (EntryType.CHAR, EntryType.BLOCK)
_LINKS = (EntryType.SYMLINK, EntryType.HARDLINK)
_HALF_A_SECOND = 500_000_000


def headers_of(stream: Iterable[bytes | memoryview], limits: Limits = DEFAULT_LIMITS) -> Iterator[Entry]:
    """What the headers of a tar stream say; the files' content does not matter.

    :raises BadImage: it is no tar archive.
    """
    parser = TarParser(limits)
    for data in stream:
        for event in parser.feed(bytes(data)):
            if isinstance(event, Begin):
                yield event.entry
    for _ in parser.finish():
        pass


def check_headers(index: LayerIndex, entries: Iterable[Entry]) -> None:
    """Hold the index to the headers of the stream: the same names with the same attributes, in the same order.

    Of a layer by stargz-snapshotter the format's own entries are passed over, and times are compared as it rounds them.

    :raises BadImage: they differ.
    """
    stargz = any(each.annotation == STARGZ_TOC for each in index.commitments)
    number = 0
    for entry in entries:
        if stargz and entry.path.removeprefix(b"/").removeprefix(b"./") in BOOKKEEPING:
            continue
        if number == len(index):
            raise BadImage("the stream has a name that the index does not have", where=show(entry.path))
        if _comparable(entry, rounded=stargz) != _comparable(index.entry(number), rounded=stargz):
            raise BadImage("the stream and the index say different things", where=show(entry.path))
        number += 1
    if number < len(index):
        raise BadImage("the index has a name that the stream does not have", where=show(index.entry(number).path))


def _comparable(entry: Entry, *, rounded: bool) -> tuple[object, ...]:
    time = (entry.mtime, entry.mtime_ns)
    if rounded:
        time = (entry.mtime + (entry.mtime_ns >= _HALF_A_SECOND), 0)
    size = entry.size if entry.type is EntryType.FILE else 0
    rdev = entry.rdev if entry.type in _DEVICES else (0, 0)
    link = entry.linkname if entry.type in _LINKS else b""
    return entry.path, entry.type, entry.mode, entry.uid, entry.gid, time, size, link, rdev, sorted(entry.xattrs)
