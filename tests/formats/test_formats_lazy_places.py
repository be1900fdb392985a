"""Footers and annotations that tell where a table of contents is, and blobs that have something else there."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from als.errors import BadImage, DigestMismatch, LimitExceeded
from als.formats.estargz.footer import LONGEST, parse_footer
from als.formats.zstdchunked.position import parse_annotations
from als.formats.zstdchunked.position import parse_footer as parse_zstd_footer
from als.model.limits import DEFAULT_LIMITS
from tests.formats.lazylayers import LazyLayer
from tests.formats.liars import SHA, SOURCES, outcome, writer
from tests.formats.tocbuilder import (
    PODMAN,
    estargz,
    estargz_footer,
    finish_estargz,
    gzip_member,
    toc_archive,
    zstd_frame,
    zstd_podman,
)


def test_footers() -> None:
    for toc, legacy, length in ((100, False, 51), (100, True, 47), (None, False, 46)):
        footer = estargz_footer(toc, legacy)
        assert len(footer) == length
        found = parse_footer((bytes(60) + footer)[-LONGEST:], 1000)
        assert (found.start, found.toc) == (1000 - length, toc)
    good = estargz_footer(100)
    for number in range(len(good)):
        damaged = bytearray(good)
        damaged[number] ^= 0x55
        if 4 <= number < 10:
            continue  # Flags of no meaning: time, level, system.
        try:
            assert parse_footer(bytes(damaged), 1000).toc != 100
        except BadImage as error:
            assert "footer" in str(error)
    for bad in (b"", good[1:], good[:-1], estargz_footer(949), estargz_footer((1 << 64) - 1), bytes(LONGEST)):
        with pytest.raises(BadImage):
            parse_footer(bad, 1000)
    with pytest.raises(BadImage, match="that is none"):
        parse_footer(good.replace(b"0000000000000064", b"+000000000000064"), 1000)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1:2:3",
        "100:10:50:1:5",
        "-100:10:50:1",
        "+100:10:50:1",
        " 100:10:50:1",
        "100:10:50:1 ",
        "0100:10:50:1",
        "1e2:10:50:1",
        "١٠٠:10:50:1",
        "100:10:50:2",
        "100:0:50:1",
        "7:10:50:1",
        "995:10:50:1",
        "18446744073709551616:10:50:1",
        "9223372036854775807:1:1:1",
        "100:9223372036854775807:50:1",
        "100:10:9999999999999999999:1",
        "1" * 5000,
    ],
)
def test_positions_that_are_none(text: str) -> None:
    with pytest.raises(BadImage):
        parse_annotations(text, None, 1000)


def test_positions() -> None:
    found = parse_annotations("100:10:50:1", "118:20:30", 1000)
    assert (found.toc.offset, found.toc.end, found.toc.text_length) == (100, 110, 50)
    assert found.tar_split is not None
    assert found.tar_split.offset == 118
    for overlapping in ("117:20:30", "100:10:50", "85:10:5", "105:2:3"):
        with pytest.raises(BadImage, match="overlaps"):
            parse_annotations("100:10:50:1", overlapping, 1000)
    numbers = struct.pack("<7Q", 100, 10, 50, 1, 118, 20, 30)
    assert parse_zstd_footer(b"\x50\x2a\x4d\x18\x40\0\0\0" + numbers + b"GNUlInUx", 1000) == found
    old = parse_zstd_footer(bytes(24) + b"\x50\x2a\x4d\x18\x28\0\0\0" + numbers[:32] + b"GnUlInUx", 1000)
    assert (old.toc, old.tar_split) == (found.toc, None)
    for bad in (b"", b"GNUlInUx", numbers + b"GNUlInUx", b"\x50\x2a\x4d\x18\x41\0\0\0" + numbers + b"GNUlInUx"):
        with pytest.raises(BadImage, match="no zstd:chunked footer"):
            parse_zstd_footer(bad, 1000)


def annotated(layer: LazyLayer, **changes: str) -> LazyLayer:
    annotations = {**layer.descriptor.annotations, **{PODMAN + key.replace("_", "-"): each for key, each in changes.items()}}
    return replace(layer, descriptor=replace(layer.descriptor, annotations=annotations))


def test_a_zstd_toc_that_is_not_where_it_should_be() -> None:
    layer = zstd_podman(SOURCES, 1000)
    position = layer.descriptor.annotations[PODMAN + "manifest-position"]
    offset, length, text, _ = map(int, position.split(":"))
    assert isinstance(outcome(annotated(layer, manifest_position=f"{offset}:{length}:{text - 1}:1")), BadImage)
    assert isinstance(outcome(annotated(layer, manifest_position=f"{offset}:{length}:{text + 1}:1")), BadImage)
    error = outcome(annotated(layer, manifest_position=f"{offset - 1}:{length}:{text}:1"))
    assert "frame of its own" in str(error)
    plain = replace(layer, blob=layer.blob[: offset - 8] + bytes(8) + layer.blob[offset:])
    assert "frame of its own" in str(outcome(plain))
    without = {key: value for key, value in layer.descriptor.annotations.items() if "tarsplit" not in key}
    unsplit = replace(layer, descriptor=replace(layer.descriptor, annotations=without))
    assert "there is no tar-split" in str(outcome(unsplit))
    checksum = layer.descriptor.annotations[PODMAN + "manifest-checksum"]
    old = {"io.containers.zstd-chunked.manifest-checksum": checksum}
    both = replace(layer, descriptor=replace(layer.descriptor, annotations={**layer.descriptor.annotations, **old}))
    assert outcome(both) is None
    old = {"io.containers.zstd-chunked.manifest-checksum": SHA}
    both = replace(layer, descriptor=replace(layer.descriptor, annotations={**layer.descriptor.annotations, **old}))
    assert "different tables of contents" in str(outcome(both))


def test_an_estargz_toc_that_is_something_else() -> None:
    made = writer("estargz")
    good = finish_estargz(made)
    toc = good.blob[made.flush() : -51]
    other = gzip_member(b"no tar" * 200)
    for wrong in (b"", toc[:-9], toc + b"x", other, gzip_member(bytes(1024)), zstd_frame(b"{}")):
        blob = bytes(made.blob) + wrong + estargz_footer(len(made.blob))
        layer = replace(good, blob=blob, descriptor=replace(good.descriptor, size=len(blob)))
        assert isinstance(outcome(layer), BadImage)
    external = finish_estargz(writer("estargz"), external=True)
    assert outcome(external) is None
    assert isinstance(outcome(replace(external, toc=toc_archive(b"{}"))), DigestMismatch)
    assert isinstance(outcome(replace(external, toc=b"")), BadImage)
    assert isinstance(outcome(external, replace(DEFAULT_LIMITS, toc_bytes=10)), LimitExceeded)


def test_blobs_that_are_too_small() -> None:
    for layer in (estargz(SOURCES), zstd_podman(SOURCES, annotated=False)):
        for size in (0, 1, 45, 60):
            cut = replace(layer, blob=layer.blob[:size], descriptor=replace(layer.descriptor, size=size))
            assert isinstance(outcome(cut), BadImage)
