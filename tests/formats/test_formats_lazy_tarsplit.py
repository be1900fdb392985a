"""The tar-split of a zstd:chunked layer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from als.errors import BadImage, DigestMismatch, LimitExceeded
from als.formats.headercheck import check_headers, headers_of
from als.formats.zstdchunked.tarsplit import (
    FileRef,
    joined,
    parse,
    tar_split_text,
    zero_filled,
)
from als.model.limits import DEFAULT_LIMITS
from tests.formats.lazylayers import LazyLayer
from tests.formats.liars import SOURCES, format_for
from tests.formats.tocbuilder import (
    file,
    zstd_podman,
)


def split_of(layer: LazyLayer) -> list[bytes | FileRef]:
    index = layer.index(format_for(layer))
    where = index.tar_split
    assert where is not None
    return list(parse(tar_split_text(layer.blob[where.offset : where.offset + where.length], where)))


def test_a_tar_split_has_to_fit() -> None:
    layer = zstd_podman(SOURCES, 1000)
    index = layer.index(format_for(layer))
    records = split_of(layer)
    places = [number for number, record in enumerate(records) if isinstance(record, FileRef) and record.size]
    check_headers(index, headers_of(zero_filled(records)))
    for changed, words in (
        ([*records[: places[0]], *records[places[0] + 1 :]], "another file"),
        ([*records[: places[1]], *records[places[1] + 1 :]], "tar-split does not have"),
        ([*records, FileRef(b"d/z", 5)], "index does not have"),
        ([*records[: places[0]], FileRef(b"d/a", 2499), *records[places[0] + 1 :]], "another file"),
        ([*records[: places[0]], FileRef(b"d/x", 2500), *records[places[0] + 1 :]], "another file"),
    ):
        with pytest.raises(BadImage, match=words):
            list(joined(index, changed))
    other = zstd_podman([*SOURCES[:2], file("d/b", b"b" * 100, mode=0o4755), SOURCES[3]], 1000)
    with pytest.raises(BadImage, match="d/b: the stream and the index say different"):
        check_headers(index, headers_of(zero_filled(split_of(other))))
    with pytest.raises(BadImage, match="stream has a name"):
        check_headers(index, headers_of(zero_filled(split_of(zstd_podman([*SOURCES, file("more", b"")], 1000)))))
    with pytest.raises(BadImage, match="index has a name"):
        check_headers(index, headers_of(zero_filled(split_of(zstd_podman(SOURCES[:3], 1000)))))


def test_a_tar_split_is_verified_before_it_is_read() -> None:
    layer = zstd_podman(SOURCES, 1000)
    where = layer.index(format_for(layer)).tar_split
    assert where is not None
    good = layer.blob[where.offset : where.offset + where.length]
    for bad in (b"", good[:-1], good + b"\0", bytes(len(good))):
        with pytest.raises(DigestMismatch):
            next(tar_split_text(bad, where))


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b"7",
        b'{"type":3}',
        b'{"type":true,"name":"a"}',
        b'{"type":"2","payload":""}',
        b'{"type":2,"payload":5}',
        b'{"type":2,"payload":"!"}',
        b'{"type":2,"type":2,"payload":""}',
        b'{"type":2,"payload":"\xff"}',
        b'{"type":1,"name":5}',
        b'{"type":1,"name":"a","size":-1}',
        b'{"type":1,"name":"a","size":1.5}',
        b'{"type":1,"name":"\\ud800"}',
        b'{"type":1,"name_raw":"*"}',
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_tar_splits_that_are_none(line: bytes) -> None:
    with pytest.raises(BadImage):
        list(parse([line + b"\n"]))


def test_tar_split_records() -> None:
    text = b'{"type":2,"payload":"YWI="}\n\n{"type":1,"name_raw":"/w==","size":3,"payload":null}\n{"type":1,"name":"\xc3\xa4"}'
    for size in (1, 7, 1000):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert list(parse(pieces)) == [b"ab", FileRef(b"\xff", 3), FileRef("ä".encode(), 0)]
    with pytest.raises(LimitExceeded):
        list(parse([b"x" * 1000] * 20, replace(DEFAULT_LIMITS, header_bytes=1000)))
