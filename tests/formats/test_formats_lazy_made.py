"""Layers made from random files by a writer of our own: what the index says is what the blob's stream holds."""

from __future__ import annotations

import random
import tarfile
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from als.formats.codecs import MAGIC_BYTES, decompressor, identify
from als.formats.discovery import find_indexed, indexed_format_of
from als.formats.headercheck import check_headers, headers_of
from als.formats.index import LayerIndex
from als.formats.lazy import tree_of
from als.formats.tar.parser import TarParser
from als.formats.units import stream_ranges
from als.formats.zstdchunked.tarsplit import FilePart, joined, parse, tar_split_text, zero_filled
from als.model.digest import Digest
from tests.formats.lazylayers import LazyLayer
from tests.formats.streams import read_layer, rows
from tests.formats.tocbuilder import (
    Source,
    Writer,
    estargz,
    file,
    finish_estargz,
    folder,
    gzip_member,
    info,
    zstd_podman,
    zstd_stargz,
)

INDEXED = find_indexed()
BOOKKEEPING = {"/stargz.index.json", "/.prefetch.landmark", "/.no.prefetch.landmark"}

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0\ufffd", exclude_categories=["Cs"]), min_size=1, max_size=20
)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Short ones, long ones, and such with holes."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=40))
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    pieces = [chance.choice((bytes, chance.randbytes))(chance.randrange(3000)) for _ in range(kind * 2)]
    return b"".join(pieces)


@st.composite
def layers(draw: st.DrawFn) -> list[Source]:
    names = draw(st.lists(NAMES.filter(_plain), unique=True, max_size=12))
    sources: list[Source] = []
    files: list[str] = []
    for number, name in enumerate(names):
        path = draw(st.sampled_from(("", "./", "d/", "d/e/"))) + f"{number}-{name}"
        attributes: dict[str, Any] = {
            "mode": draw(st.integers(0, 0o7777)),
            "uid": draw(st.sampled_from((0, 1000, 4_000_000_000))),
            "gid": draw(st.integers(0, 3_000_000)),
            "mtime": draw(st.sampled_from((0, 1, 1_700_000_000, 4_102_444_800))),
            "pax_headers": draw(st.sampled_from(({}, {"SCHILY.xattr.user.x": "v"}))),
        }
        kind = draw(st.integers(0, 7))
        if kind < 5:
            sources.append(file(path, draw(contents()), **attributes))
            files.append(path)
        elif kind == 5:
            sources.append(folder(path, **{**attributes, "mode": 0o711}))
        elif kind == 6:
            sources.append((info(path, tarfile.SYMTYPE, link=f"to/{name}", **attributes), b""))
        elif files:
            sources.append((info(path, tarfile.LNKTYPE, link=draw(st.sampled_from(files)), **attributes), b""))
    return sources


def _plain(name: str) -> bool:
    return name not in (".", "..") and not name.startswith(".wh.")


def read(layer: LazyLayer) -> LayerIndex:
    wanted = indexed_format_of(INDEXED, layer.descriptor.media_type, layer.descriptor.annotations)
    assert wanted is not None
    return layer.index(wanted)


def check(layer: LazyLayer) -> LayerIndex:
    """Hold the lazy reading to the reading of the whole stream."""
    index = read(layer)
    codec = decompressor(identify(layer.blob[:MAGIC_BYTES]))
    raw = b"".join(codec.feed(layer.blob))
    codec.finish()
    whole = read_layer(raw, TarParser)
    expected = {path: row for path, row in rows(whole.tree()).items() if path not in BOOKKEEPING}
    assert rows(tree_of(index)) == expected
    assert whole.diff_id == layer.diff_id
    assert str(Digest.of(layer.stream(index, 1000))) == layer.diff_id
    check_headers(index, (entry for entry, _ in whole.entries))
    ranges = list(stream_ranges(index))
    assert all(one.offset + one.length <= other.offset for one, other in pairwise(ranges))
    stored = {entry.path: content for entry, content in whole.entries}
    order = list(range(len(index)))
    random.Random(3).shuffle(order)
    for number in order:
        content = stored[index.entry(number).path]
        if index.size(number):
            assert layer.content(index, number) == content
            check_ranges(index, number, len(content))
    return index


def check_ranges(index: LayerIndex, number: int, size: int) -> None:
    """The chunks of a part of a file are those of the whole that overlap it."""
    chunks = index.chunks(number)
    assert index[number].chunks == chunks
    for offset, length in ((0, 1), (size - 1, 1), (size // 3, size // 2), (0, size), (size, 5), (0, 0)):
        wanted = [each for each in chunks if each.offset < offset + length and each.end > offset]
        assert list(index.chunks_within(number, offset, length)) == wanted
    for chunk in chunks:
        assert (number, chunk) in index.chunks_in(chunk.unit.number)


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from((1 << 20, 1000, 777)), st.sampled_from((0, 1, 1500, 100_000)), st.booleans())
def test_estargz(sources: list[Source], chunk_size: int, minimum: int, external: bool) -> None:
    check(estargz(sources, chunk_size, minimum, external=external))


@settings(max_examples=30, deadline=None)
@given(layers(), st.sampled_from((1 << 20, 777)), st.sampled_from((0, 1500)))
def test_zstd_of_stargz(sources: list[Source], chunk_size: int, minimum: int) -> None:
    check(zstd_stargz(sources, chunk_size, minimum))


@settings(max_examples=60, deadline=None)
@given(layers(), st.sampled_from((1 << 20, 1000, 777)), st.booleans(), st.booleans())
def test_zstd_of_podman(sources: list[Source], chunk_size: int, tar_split: bool, annotated: bool) -> None:
    layer = zstd_podman(sources, chunk_size, tar_split=tar_split, annotated=annotated)
    index = check(layer)
    assert (index.tar_split is not None) == tar_split
    if index.tar_split is None:
        return
    where = index.tar_split
    compressed = layer.blob[where.offset : where.offset + where.length]
    check_headers(index, headers_of(zero_filled(parse(tar_split_text(compressed, where)))))
    parts = [
        layer.content(index, part.number) if isinstance(part, FilePart) else part
        for part in joined(index, parse(tar_split_text(compressed, where)))
    ]
    assert str(Digest.of(b"".join(parts))) == layer.diff_id


SMALL = [folder("d"), file("d/a", b"a" * 3000), file("d/b", b"b"), file("d/c", bytes(2000) + b"c" * 10), file("d/e", b"")]


def test_holes_are_not_fetched() -> None:
    layer = zstd_podman(SMALL, 1000)
    index = read(layer)
    (number,) = (each for each in range(len(index)) if index.entry(each).path == b"d/c")
    assert [each.hole for each in index.chunks(number)] == [True, True, False]
    layer.asked.clear()
    assert layer.content(index, number) == bytes(2000) + b"c" * 10
    assert len(layer.asked) == 1


def test_small_files_share_a_unit() -> None:
    index = read(estargz(SMALL, 1000, 100_000))
    assert index.units == 1
    found = [(index.entry(number).path, chunk.inner_offset) for number, chunk in index.chunks_in(0)]
    assert [path for path, _ in found] == [b"d/a"] * 3 + [b"d/b"] + [b"d/c"] * 3
    assert [inner for _, inner in found] == sorted({inner for _, inner in found})


def test_prefetch() -> None:
    layer = estargz(SMALL, prioritized=3)
    index = read(layer)
    assert [index.entry(number).path for number in range(index.prefetch.names)] == [b"d/", b"d/a", b"d/b"]
    ends = [chunk.unit.offset + chunk.unit.length for number in range(3) for chunk in index.chunks(number)]
    assert 0 < index.prefetch.end <= max(ends)
    assert layer.blob[index.prefetch.end :].startswith(b"\x1f\x8b")
    assert not index.prefetch.unwanted
    unwanted = read(estargz([file(".no.prefetch.landmark", b"\x0f"), *SMALL])).prefetch
    assert (unwanted.end, unwanted.names, unwanted.unwanted) == (0, 0, True)
    assert read(estargz(SMALL)).prefetch == read(zstd_podman(SMALL)).prefetch


def test_podman_shows_what_it_was_given() -> None:
    """A layer that was once eStargz and that podman pushed again holds the bookkeeping as files, to podman too."""
    index = read(zstd_podman([file("stargz.index.json", b"{}"), file(".no.prefetch.landmark", b"\x0f")]))
    assert [each.entry.path for each in index] == [b"stargz.index.json", b".no.prefetch.landmark"]


def test_footers_of_all_ages() -> None:
    assert rows(tree_of(read(estargz(SMALL, legacy=True)))) == rows(tree_of(read(estargz(SMALL))))
    assert rows(tree_of(read(zstd_podman(SMALL, annotated=False)))) == rows(tree_of(read(zstd_podman(SMALL))))
    layer = zstd_stargz(SMALL)
    position = "io.containers.zstd-chunked.manifest-position"
    annotations = {key: value for key, value in layer.descriptor.annotations.items() if key != position}
    unplaced = replace(layer, descriptor=replace(layer.descriptor, annotations=annotations), asked=[])
    assert rows(tree_of(read(unplaced))) == rows(tree_of(read(layer)))
    assert len(unplaced.asked) == 2


def test_a_long_table_of_contents_takes_two_requests() -> None:
    chance = random.Random(1)
    sources = [file(f"{number}-{chance.randbytes(20).hex()}", chance.randbytes(8)) for number in range(1500)]
    layer = estargz(sources)
    index = read(layer)
    assert len(index) == 1500
    assert len(layer.asked) == 2
    with pytest.raises(IndexError):
        index.entry(1500)


def test_a_file_without_a_digest_is_named_by_its_chunks() -> None:
    """The digest of a whole file is optional in eStargz; those of its chunks are not."""

    def without(sources: list[Source]) -> LayerIndex:
        writer = Writer(gzip_member, 1000)
        for member, content in sources:
            writer.add(member, content)
        for row in writer.rows:
            row.pop("digest", None)
        return read(finish_estargz(writer))

    one, other = without([file("a", b"x" * 5000), file("b", b"y")]), without([file("c", b"x" * 5000)])
    assert one.sha256(0) is None
    assert one.sha256(1) == Digest.of(b"y").raw
    assert one.chunks_digest(0) == other.chunks_digest(0) != one.chunks_digest(1)
    content, size = tree_of(one).contents()[one.chunks_digest(0)]
    assert (content.sha256, size) == (None, 5000)
