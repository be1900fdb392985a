"""An index written down and read again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from als.errors import BadImage
from als.formats.index import Columns, LayerIndex
from als.formats.indexfile import pack, unpack
from als.formats.lazy import tree_of
from als.formats.units import stream_ranges
from tests.formats.lazylayers import layers_of
from tests.formats.liars import SOURCES, format_for
from tests.formats.streams import rows
from tests.formats.test_formats_lazy_made import layers
from tests.formats.tocbuilder import Source, estargz, file, zstd_podman


def packed(index: LayerIndex) -> bytes:
    return b"".join(pack(index))


def check_same(one: LayerIndex, other: LayerIndex) -> None:
    assert list(one) == list(other)
    assert rows(tree_of(one)) == rows(tree_of(other))
    assert list(stream_ranges(one)) == list(stream_ranges(other))
    assert [one.chunks_in(number) for number in range(one.units)] == [other.chunks_in(number) for number in range(other.units)]
    for name in ("compression", "blob_size", "commitments", "prefetch", "tar_split", "stream_gaps"):
        assert getattr(one, name) == getattr(other, name)


@settings(max_examples=40, deadline=None)
@given(layers())
def test_round_trip(sources: list[Source]) -> None:
    for layer in (estargz(sources, 1000, 1500, prioritized=0), zstd_podman(sources, 1000)):
        index = layer.index(format_for(layer))
        check_same(unpack(packed(index)), index)
        assert packed(unpack(packed(index))) == packed(index)


@pytest.mark.parametrize("name", ["estargz-prioritized-tiny", "zstdchunked-image5.42-tiny"])
def test_round_trip_of_fixtures(name: str, fixtures_dir: Path) -> None:
    for layer in layers_of(fixtures_dir / name):
        index = layer.index(format_for(layer))
        again = unpack(packed(index))
        check_same(again, index)
        assert layer.stream(again) == layer.stream(index)


def test_a_torn_file_is_refused() -> None:
    layer = estargz(SOURCES, 1000)
    good = packed(layer.index(format_for(layer)))
    for bad in (b"", good[:-1], good[:100], good + b"x", b"x" + good[1:], good[:60] + b"\xff" + good[61:]):
        with pytest.raises(BadImage, match="torn"):
            unpack(bad)
    for body in (good[:-40], good[:-32] + b"x", good[:12], good[:8]):
        with pytest.raises(BadImage, match="index"):
            unpack(body + hashlib.sha256(body).digest())


def change(name: str, row: int, value: int) -> Callable[[Columns], None]:
    def apply(columns: Columns) -> None:
        getattr(columns, name)[row] = value

    return apply


def clear(columns: Columns) -> None:
    del columns.unit_starts[:], columns.unit_ends[:]


LIES: dict[str, Callable[[Columns], object]] = {
    "path ends fall": change("path_ends", 1, 500),
    "text is longer": lambda columns: setattr(columns, "text", columns.text + b"x"),
    "unknown type": change("kinds", 0, 9),
    "unknown flag": change("flags", 0, 2),
    "size of a directory": change("sizes", 0, 7),
    "file shorter than its chunks": change("sizes", 1, 2000),
    "huge file": change("sizes", 1, 1 << 63),
    "chunks of another file": change("chunk_ends", 1, 2),
    "more chunks than there are": change("chunk_ends", 3, 9),
    "chunk not at 0": change("chunk_offsets", 0, 1),
    "chunks overlap": change("chunk_offsets", 2, 1000),
    "chunk of no unit": change("chunk_units", 3, 9),
    "unit without chunks": change("chunk_units", 1, 0),
    "chunk without a digest": change("chunk_flags", 0, 0),
    "inner offset": change("chunk_inner", 0, 1 << 63),
    "no units": clear,
    "units overlap": change("unit_ends", 0, 1 << 40),
    "unit ends before it starts": change("unit_ends", 3, 1),
    "one owner too few": lambda columns: columns.uids.pop(),
    "xattrs of nobody": lambda columns: columns.xattrs.update({9: ((b"a", b"b"),)}),
    "device of nobody": lambda columns: columns.rdevs.update({9: (1, 1)}),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lying_worker_is_refused(name: str) -> None:
    layer = zstd_podman(SOURCES, 1000)
    index = layer.index(format_for(layer))
    for column in ("kinds", "flags", "chunk_flags"):
        setattr(index.columns, column, bytearray(getattr(index.columns, column)))
    unpack(packed(index))
    LIES[name](index.columns)
    with pytest.raises(BadImage, match="not an index"):
        unpack(packed(index))


def test_chunks_that_overlap_in_their_unit() -> None:
    layer = estargz([file("a", b"a" * 50), file("b", b"b" * 50)], 1000, 10_000)
    index = layer.index(format_for(layer))
    assert index.units == 1
    index.columns.chunk_inner[1] = index.columns.chunk_inner[0] + 49
    with pytest.raises(BadImage, match="overlap in their unit"):
        unpack(packed(index))
