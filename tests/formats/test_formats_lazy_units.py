"""Units that do not hold what the index says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from als.errors import BadImage, DigestMismatch, LimitExceeded
from als.formats.headercheck import check_headers, headers_of
from als.formats.units import Bytes, UnitReader, read_chunk, read_file, read_unit
from tests.formats.lazylayers import LazyLayer
from tests.formats.liars import A2, EMPTY, SHA, SOURCES, A, B, append, format_for, lied, put, remove
from tests.formats.tocbuilder import (
    Row,
    Writer,
    estargz,
    file,
    finish_estargz,
    gzip_member,
    zstd_podman,
)


def contents(layer: LazyLayer) -> Iterator[bytes]:
    index = layer.index(format_for(layer))
    for number in range(len(index)):
        yield layer.content(index, number)


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
def test_units_that_lie(flavour: str) -> None:
    def refused(change: Callable[[list[Row]], None]) -> str:
        with pytest.raises(BadImage) as caught:
            b"".join(contents(lied(flavour, change)))
        return str(caught.value)

    assert "promises of d/b at 0" in refused(put(B, digest=SHA, chunkDigest=SHA))
    assert "promises of d/a at 1000" in refused(put(A2, chunkDigest=SHA))
    assert "d/a: the file is not what" in refused(put(A, digest=SHA))
    assert "end before their last chunk" in refused(put(B, size=1000_000))
    assert "promises of d/b" in refused(put(B, innerOffset=1, size=99))
    assert "of the layer: the" in refused(lambda rows: rows[B].update(offset=rows[B]["offset"] + 11))
    if flavour == "podman":
        layer = lied(flavour, put(A2, chunkType="zeros"))
        index = layer.index(format_for(layer))
        with pytest.raises(DigestMismatch, match="hole is not all zeros"):
            layer.stream(index)
        with pytest.raises(DigestMismatch, match="d/a: the file is not"):
            b"".join(contents(layer))


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
def test_an_index_that_differs_from_its_stream(flavour: str) -> None:
    """Every byte is as promised, and yet two clients would see two layers."""

    def compare(change: Callable[[list[Row]], None]) -> None:
        layer = lied(flavour, change)
        index = layer.index(format_for(layer))
        check_headers(index, headers_of([layer.stream(index)]))

    compare(put(B))
    for change, words in (
        (put(B, mode=0o4755), "d/b: the stream and the index"),
        (put(B, name="d/z"), "d/b: the stream and the index"),
        (put(0, modtime="2024-01-01T00:00:00Z"), "d/: the stream and the index"),
        (remove(EMPTY), "d/empty: the stream has a name"),
        (append(type="fifo", name="x"), "x: the index has a name"),
    ):
        with pytest.raises(BadImage, match=words):
            compare(change)


@pytest.mark.parametrize("flavour", ["estargz", "podman"])
def test_damaged_units(flavour: str) -> None:
    layer = estargz(SOURCES, 1000) if flavour == "estargz" else zstd_podman(SOURCES, 1000)
    index = layer.index(format_for(layer))
    chunk = index.chunks(1)[0]
    good = layer.unit(chunk.unit)
    assert read_chunk(index, chunk, good) == b"a" * 1000
    for bad in (b"", good[: len(good) // 2], b"\0" + good[1:], good[:12] + bytes(len(good) - 12), good + b"x" * 300_000):
        with pytest.raises(BadImage):
            for _ in read_unit(index, chunk.unit.number, [bad], whole=True):
                pass
    for bad in (b"", good[:8], b"\0" + good[1:]):
        with pytest.raises(BadImage):
            read_chunk(index, chunk, bad)
    with pytest.raises(LimitExceeded):
        read_chunk(index, chunk, good, most=999)
    with pytest.raises(LimitExceeded):
        next(read_file(index, 1, layer.unit, most=999))


def test_nothing_is_decompressed_beyond_the_last_chunk() -> None:
    """A unit that expands to much more than its chunk is left alone after the chunk."""
    made = Writer(gzip_member)
    made.add(*file("a", b"a" * 100))
    made.write(bytes(50 << 20))
    layer = finish_estargz(made)
    index = layer.index(format_for(layer))
    reader = UnitReader(index, 0)
    given: list[Any] = []
    for byte in layer.unit(index.unit(0)):
        given += reader.feed(bytes([byte]))
        if reader.done:
            break
    assert sum(len(each.data) for each in given if isinstance(each, Bytes)) == 100
    assert list(reader.feed(b"\0" * 100)) == []
    reader.finish()
