"""Damaged blobs, at every kind of place: what arrives damaged, and what was made damaged on purpose."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import random
from collections.abc import Mapping

import pytest
import zstandard

from als.errors import BadImage, DigestMismatch
from als.model.digest import Digest
from als.service import Service
from als.store.images import ImageRecord
from tests.formats.tarblocks import END, header, padded, pax
from tests.harness.ocilayout import LayerBlob, Layout
from tests.hostile.conftest import refused, refused_or

CONTENT = random.Random(1).randbytes(3000)
TAR = (
    header(b"d/", b"5", mode=b"0000755")
    + pax(b"path=d/named", b"mtime=1700000000.5", b"SCHILY.xattr.user.a=b")
    + header(b"short", size=b"%o" % len(CONTENT), mode=b"0000644", mtime=b"14000000000")
    + padded(CONTENT)
    + header(b"l", b"2", linkname=b"d/named")
    + header(b"h", b"1", linkname=b"d/named", mode=b"0000644")
    + END
)
PAX_HEADER, PAX_BODY, FILE, PAYLOAD = 512, 1024, 1536, 2048
LINK = PAYLOAD + len(padded(CONTENT))

TAR_PLACES: Mapping[str, int] = {
    "name": 0,
    "mode": 100,
    "owner": 108,
    "size": FILE + 124,
    "mtime": FILE + 137,
    "checksum": 148,
    "type": 156,
    "link": LINK + 157,
    "magic": 257,
    "unused": 510,
    "pax-type": PAX_HEADER + 156,
    "pax-size": PAX_HEADER + 124,
    "pax-length": PAX_BODY,
    "pax-keyword": PAX_BODY + 4,
    "pax-equals": PAX_BODY + 7,
    "pax-newline": PAX_BODY + 15,
    "pax-padding": PAX_BODY + 500,
    "content": PAYLOAD + 100,
    "padding": PAYLOAD + len(CONTENT) + 1,
    "first-end-block": len(TAR) - 1024,
    "second-end-block": len(TAR) - 1,
}
GZIP = gzip.compress(TAR, mtime=0)
GZIP_PLACES: Mapping[str, int] = {
    "magic": 0,
    "method": 2,
    "flags": 3,
    "time": 4,
    "system": 9,
    "deflate-header": 10,
    "deflate-tables": 14,
    "deflate-data": len(GZIP) // 2,
    "deflate-end": len(GZIP) - 9,
    "crc": len(GZIP) - 8,
    "crc-end": len(GZIP) - 5,
    "isize": len(GZIP) - 4,
    "isize-end": len(GZIP) - 1,
}
ZSTD = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True).compress(TAR)
ZSTD_PLACES: Mapping[str, int] = {
    "magic": 0,
    "magic-end": 3,
    "descriptor": 4,
    "content-size": 5,
    "block-header": 8,
    "literals": 12,
    "block-data": len(ZSTD) // 2,
    "checksum": len(ZSTD) - 4,
    "checksum-end": len(ZSTD) - 1,
}
STREAMS = {"none": (TAR, TAR_PLACES), "gzip": (GZIP, GZIP_PLACES), "zstd": (ZSTD, ZSTD_PLACES)}
SUFFIX = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}
PLACES = [(kind, name, offset) for kind, (_, places) in STREAMS.items() for name, offset in places.items()]


def layer(layout: Layout, kind: str, blob: bytes, diff_id: bytes = TAR) -> LayerBlob:
    """A layer with this blob, under the blob's own digest."""
    media_type = f"application/vnd.oci.image.layer.v1.tar{SUFFIX[kind]}"
    return LayerBlob(*layout.add_blob(blob), f"sha256:{hashlib.sha256(diff_id).hexdigest()}", media_type)


def flipped(data: bytes, offset: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1 << bit
    return bytes(changed)


def check(service: Service, image: ImageRecord) -> None:
    """The published layer is the one that its DiffID names."""
    (record,) = [each for each in service.layers.all() if each.diff_id == image.config.diff_ids[0]]
    assert record.diff_id == Digest.of(TAR)
    assert (service.diff_n.diff(image.chain[0]) / "d/named").stat().st_size == len(CONTENT)


@pytest.mark.parametrize("kind", STREAMS)
def test_the_stream_is_served_undamaged(service: Service, layout: Layout, kind: str) -> None:
    layout.add_image("bad", [layer(layout, kind, STREAMS[kind][0])])
    assert not refused_or(service, layout, lambda image: check(service, image))


@pytest.mark.parametrize("kind", STREAMS)
def test_flipped_on_the_way(service: Service, layout: Layout, kind: str) -> None:
    """The manifest names the right digest."""
    stream, places = STREAMS[kind]
    good = layer(layout, kind, stream)
    layout.add_image("bad", [good])
    for offset in places.values():
        for bit in (0, 7):
            layout.blob(good.digest).write_bytes(flipped(stream, offset, bit))
            refused(service, layout, BadImage)


@pytest.mark.parametrize("kind", STREAMS)
def test_flipped_on_purpose(service: Service, layout: Layout, kind: str) -> None:
    """The manifest names the damaged blob, the config the right content: served right, or refused."""
    stream, places = STREAMS[kind]
    for name, offset in places.items():
        damaged = layer(layout, kind, flipped(stream, offset, 0))
        layout.add_image("bad", [damaged])
        if kind == "gzip" and name in ("flags", "time", "system"):
            # Not part of the content, and nobody reads it. The layer stays, so the next ones are known without a look.
            continue
        refused(service, layout, BadImage)


def test_what_gzip_says_beside_its_content_changes_nothing(service: Service, layout: Layout) -> None:
    layout.add_image("bad", [layer(layout, "gzip", flipped(GZIP, GZIP_PLACES["time"], 0))])
    assert not refused_or(service, layout, lambda image: check(service, image))


def test_a_damaged_tar_that_everything_vouches_for(service: Service, layout: Layout) -> None:
    """Config and manifest name the damaged stream: what is served is what it says, if it says anything that can be."""
    refusals = set()
    for name, offset in TAR_PLACES.items():
        for bit in (0, 4):
            damaged = flipped(TAR, offset, bit)
            layout.add_image("bad", [layer(layout, "none", damaged, damaged)])

            def walk(image: ImageRecord) -> None:
                root = service.diff_n.diff(image.chain[0])
                for path in root.rglob("*"):
                    path.lstat()

            if refused_or(service, layout, walk):
                refusals.add(name)
    # Every header block has a checksum, every record a length.
    expected = {"name", "mode", "owner", "size", "mtime", "checksum", "type", "link", "magic", "unused", "pax-type", "pax-size"}
    assert expected | {"pax-length", "pax-newline", "first-end-block"} <= refusals
    assert not refusals & {"content", "padding", "pax-padding"}


@pytest.mark.parametrize("kind", STREAMS)
def test_cut_off(service: Service, layout: Layout, kind: str) -> None:
    """On the way, and on purpose, at every kind of place and around it."""
    stream, places = STREAMS[kind]
    good = layer(layout, kind, stream)
    for offset in sorted({0, 1, *places.values(), *(place + 1 for place in places.values())}):
        if offset >= len(stream):
            continue
        layout.add_image("bad", [good])
        layout.blob(good.digest).write_bytes(stream[:offset])
        refused(service, layout, BadImage)
        layout.add_image("bad", [layer(layout, kind, stream[:offset])])
        refused(service, layout, BadImage)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_something_behind_the_end(service: Service, layout: Layout, kind: str) -> None:
    """Neither zeros nor garbage nor half a frame may follow; nothing may be smuggled along under a digest."""
    stream = STREAMS[kind][0]
    for more in (bytes(512), b"\0", b"garbage", stream[:20], stream[:3]):
        layout.add_image("bad", [layer(layout, kind, stream + more)])
        refused(service, layout, BadImage)
    layout.add_image("bad", [layer(layout, kind, stream + stream)])
    refused(service, layout, DigestMismatch)


def test_the_wrong_kind_of_compression(service: Service, layout: Layout) -> None:
    """The first bytes decide, as with the clients; layers in layers of compression are not unpacked twice."""
    for kind in STREAMS:
        twice = gzip.compress(STREAMS[kind][0]) if kind != "none" else b"BZh9" + TAR
        layout.add_image("bad", [layer(layout, kind, twice)])
        refused(service, layout, BadImage)
    layout.add_image(
        "bad", [dataclasses.replace(layer(layout, "gzip", ZSTD), media_type="application/vnd.oci.image.layer.v1.tar")]
    )
    assert not refused_or(service, layout, lambda image: check(service, image))
