"""Reading whole layers through a format's parser, as the tests of formats do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from als.errors import AlsError
from als.formats.base import Begin, Event, Payload, Segment, StreamParser
from als.model.builder import TreeBuilder
from als.model.digest import Digest
from als.model.entry import Entry
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.tree import Content, Directory, FileType, Tree, inode_of

ParserFactory = Callable[[Limits], StreamParser]


@dataclass(frozen=True)
class Layer:
    """What came out of a parser: each entry with its stored bytes, and all bytes of the stream."""

    entries: list[tuple[Entry, bytes]]
    stream: bytes

    @property
    def diff_id(self) -> str:
        return str(Digest.of(self.stream))

    def tree(self, limits: Limits = DEFAULT_LIMITS) -> Tree:
        builder = TreeBuilder(limits)
        for entry, stored in self.entries:
            content = Content.of_sha256(hashlib.sha256(logical(entry, stored)).digest()) if entry.size else None
            builder.add(entry, content)
        return builder.finish()


def logical(entry: Entry, stored: bytes) -> bytes:
    """A file as its reader sees it: holes filled with zeros."""
    if entry.extents is None:
        return stored
    whole = bytearray(entry.size)
    at = 0
    for offset, length in entry.extents:
        whole[offset : offset + length] = stored[at : at + length]
        at += length
    return bytes(whole)


def pieces(raw: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """Cut `raw` into pieces of these sizes, over and over."""
    position = 0
    sizes = list(sizes)
    while position < len(raw):
        for size in sizes:
            if position < len(raw):
                yield raw[position : position + size]
                position += size


def read_layer(raw: bytes, factory: ParserFactory, sizes: Iterable[int] = (1 << 20,), limits: Limits = DEFAULT_LIMITS) -> Layer:
    """Read a stream, holding the parser to the order of events that the interface promises."""
    parser = factory(limits)
    stream = bytearray()
    entries: list[tuple[Entry, bytearray]] = []
    missing = 0

    def take(events: Iterator[Event]) -> None:
        nonlocal missing
        for event in events:
            if isinstance(event, Payload):
                missing -= len(event.data)
                assert event.data and missing >= 0, "more payload than announced"
                stream.extend(event.data)
                entries[-1][1].extend(event.data)
                continue
            assert missing == 0, "an event within a file's payload"
            if isinstance(event, Begin):
                missing = event.entry.stored
                entries.append((event.entry, bytearray()))
            else:
                assert isinstance(event, Segment)
                stream.extend(event.data)

    for piece in pieces(raw, sizes):
        take(parser.feed(piece))
    take(parser.finish())
    assert missing == 0
    return Layer([(entry, bytes(stored)) for entry, stored in entries], bytes(stream))


def refusal(raw: bytes, factory: ParserFactory, sizes: Iterable[int] = (1 << 20,)) -> AlsError | None:
    """The error with which a stream is refused, by the parser or when its entries become a tree."""
    try:
        read_layer(raw, factory, sizes).tree()
    except AlsError as error:
        return error
    return None


def rows(tree: Tree) -> dict[str, dict[str, object]]:
    """A tree as plain data: one row for each path, in the terms of the fixtures' truth."""
    first_name: dict[int, str] = {}
    result: dict[str, dict[str, object]] = {}
    for path, node in tree.walk():
        name = "/" + path.decode("utf-8", "surrogateescape")
        inode = inode_of(node)
        row: dict[str, object] = {"type": inode.type.value}
        if inode.type is not FileType.WHITEOUT:
            row |= {
                "mode": f"{inode.mode:04o}",
                "uid": inode.uid,
                "gid": inode.gid,
                "mtime": [inode.mtime, inode.mtime_ns],
                "size": inode.size,
                "linkname": inode.target.decode("utf-8", "surrogateescape"),
                "rdev": list(inode.rdev),
                "xattrs": {key.decode("utf-8", "surrogateescape"): value.hex() for key, value in inode.xattrs},
            }
        if isinstance(node, Directory):
            row["opaque"] = node.opaque
        elif inode.type is not FileType.WHITEOUT:
            row["ino"] = first_name.setdefault(id(inode), name)
        if inode.type is FileType.FILE:
            row["sha256"] = inode.content.sha256.hex() if inode.content and inode.content.sha256 else EMPTY_SHA256
        result[name] = row
    return result


EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
