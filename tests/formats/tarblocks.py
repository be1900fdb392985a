"""Tar archives written block by block, for what no tool would write; and reading them."""

from __future__ import annotations

from als.formats.tar.parser import TarParser
from als.model.entry import Entry
from als.model.limits import Limits
from tests.formats.streams import Layer, read_layer

BLOCK = 512


def read(raw: bytes, sizes: tuple[int, ...] = (1 << 20,), limits: Limits | None = None) -> Layer:
    return read_layer(raw, TarParser, sizes, limits or Limits())


def only(raw: bytes) -> tuple[Entry, bytes]:
    (result,) = read(raw).entries
    return result


def header(
    name: bytes = b"x", typeflag: bytes = b"0", size: bytes = b"0", magic: bytes = b"ustar\x0000", **fields: bytes
) -> bytes:
    """A header block with a right checksum, whatever else is in it."""
    places = {
        "mode": 100, "uid": 108, "gid": 116, "mtime": 136, "linkname": 157, "major": 329, "minor": 337, "prefix": 345,
        "sparse": 386, "extended": 482, "realsize": 483, "trailer": 508,
    }  # fmt: skip
    block = bytearray(BLOCK)
    for at, value in ((0, name), (124, size), (156, typeflag), (257, magic), *((places[key], fields[key]) for key in fields)):
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def pax(*records: bytes, typeflag: bytes = b"x") -> bytes:
    content = b"".join(map(record, records))
    return header(b"pax", typeflag, b"%o" % len(content)) + padded(content)


def record(text: bytes) -> bytes:
    length = len(text) + 2
    while len(b"%d %s\n" % (length, text)) != length:
        length += 1
    return b"%d %s\n" % (length, text)


GNU = b"ustar  \0"
END = bytes(2 * BLOCK)
