"""Little that wants to become much: each limit, reached through the whole way of a pull."""

from __future__ import annotations

import gzip
import io
import resource
import time
from collections.abc import Callable

import pytest
import zstandard

from als.errors import BadImage, LimitExceeded
from als.model.limits import DEFAULT_LIMITS, Limits
from tests.formats.tarblocks import END, GNU, header, padded, pax
from tests.harness.ocilayout import LayerBlob, Layout, TarBuilder
from tests.hostile.conftest import OpenService, refused
from tests.hostile.test_hostile_blobs import layer

SMALL = Limits(
    entries=1000,
    layer_bytes=16 << 20,
    file_bytes=8 << 20,
    header_bytes=1 << 16,
    metadata_bytes=1 << 20,
    depth=100,
    path_bytes=4096,
    steps=50_000,
    expansion=100,
    expansion_floor=1 << 20,
)


def many_files(count: int) -> bytes:
    return b"".join(header(b"f%d" % number) for number in range(count)) + END


def zeros(size: int) -> bytes:
    return header(b"zeros", size=b"%o" % size) + bytes(size) + END


def pax_sparse(size: int, blocks: int, text: bytes) -> bytes:
    records = (b"GNU.sparse.major=0", b"GNU.sparse.minor=1", b"GNU.sparse.name=f", b"GNU.sparse.realsize=%d" % size)
    return pax(*records, b"GNU.sparse.numblocks=%d" % blocks, b"GNU.sparse.map=" + text) + header(b"GNUSparseFile/f") + END


def pax_sparse_1(size: int, body: bytes) -> bytes:
    records = (b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=f", b"GNU.sparse.realsize=%d" % size)
    return pax(*records) + header(b"GNUSparseFile/f", size=b"%o" % len(padded(body))) + padded(body) + END


def xattrs(count: int, size: int) -> bytes:
    return pax(*(b"SCHILY.xattr.user.%d=" % number + b"x" * size for number in range(count))) + header(b"f") + END


def many_xattrs() -> bytes:
    """Each file's are few enough; all together they are not."""
    return b"".join(pax(b"SCHILY.xattr.user.x=%05d" % n * 500) + header(b"f%d" % n) for n in range(900)) + END


def many_spellings() -> bytes:
    """The same directory in ever new words."""
    return (
        b"".join(pax(b"path=d/" + b"./" * (1500 + number % 400) + b"f%d" % number) + header(b"x") for number in range(900))
        + END
    )


def many_symlinks() -> bytes:
    return b"".join(pax(b"linkpath=" + b"x" * 4000) + header(b"l%d" % number, b"2") for number in range(900)) + END


def many_whiteouts() -> bytes:
    return b"".join(pax(b"path=" + b"d/" * 90 + b"e" * 2000 + b"/.wh.%d" % n) + header(b"x") for n in range(900)) + END


def many_implied() -> bytes:
    paths = (b"/".join(b"%d" % number for _ in range(40)) for number in range(30))
    return b"".join(pax(b"path=" + path) + header(b"x") for path in paths) + END


def deep() -> bytes:
    return pax(b"path=" + b"d/" * 101) + header(b"x", b"5") + END


def deeper_and_deeper() -> bytes:
    """One directory at a time, through a symlink, so that no path is long."""
    tar = TarBuilder()
    for number in range(150):
        tar.directory(f"l{number}/d").symlink(f"l{number + 1}", f"l{number}/d")
    return tar.build()


def long_ways() -> bytes:
    """Directories that come and go at the end of a way that is long each time."""
    tar = TarBuilder().directory("a/" * 90).symlink("l", "a/" * 90)
    for _ in range(400):
        tar.directory("l/x").file("l/x", b"")
    return tar.build()


BOMBS: dict[str, Callable[[], bytes]] = {
    "entries": lambda: many_files(1001),
    "a large file": lambda: zeros(9 << 20),
    "many large files": lambda: zeros(6 << 20)[:-1024] * 3 + END,
    "a declared size": lambda: header(b"f", size=b"77777777777") + bytes(1024),
    "a declared size in base 256": lambda: (
        header(b"f", size=b"\x80" + bytes(3) + b"\x7f" + b"\xff" * 7, magic=GNU) + bytes(1024)
    ),
    "a declared size in PAX": lambda: pax(b"size=9223372036854775807") + header(b"f") + bytes(1024),
    "a hole": lambda: pax_sparse(1 << 60, 0, b""),
    "a hole of the other form": lambda: pax_sparse_1(1 << 50, b"0\n"),
    "holes within the limit of one": lambda: b"".join(pax_sparse(7 << 20, 0, b"")[:-1024] for _ in range(5)) + END,
    "a long extended header": lambda: header(b"pax", b"x", b"%o" % (1 << 17)) + bytes(1 << 17) + END,
    "an endless extended header": lambda: header(b"pax", b"x", b"77777777777") + bytes(1024),
    "an endless long name": lambda: header(b"././@LongLink", b"L", b"77777777777", magic=GNU) + bytes(1024),
    "an endless sparse map": lambda: pax_sparse_1(1 << 20, b"9999999999\n" + b"0\n" * 100_000),
    "a map of many runs": lambda: pax_sparse(1 << 20, 9000, b",".join(b"%d,0" % n for n in range(9000)) * 2),
    "a large xattr": lambda: xattrs(1, 70_000),
    "many xattrs of one file": lambda: xattrs(30, 3000),
    "many xattrs": many_xattrs,
    "many spellings": many_spellings,
    "many symlinks": many_symlinks,
    "long ways": long_ways,
    "many whiteouts": many_whiteouts,
    "depth": deep,
    "implied directories": many_implied,
    "depth through symlinks": deeper_and_deeper,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_tar_that_asks_for_too_much(open_service: OpenService, layout: Layout, name: str) -> None:
    tar = BOMBS[name]()
    layout.add_image("bad", [layout.add_layer(tar, "gzip")])
    error = refused(open_service(limits=SMALL), layout, BadImage)
    # Symlinks have a limit that is not of these: the kernel's.
    assert isinstance(error, LimitExceeded) or "symlinks" in name, error


def gzip_of_zeros(size: int) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def zstd_of_zeros(size: int) -> bytes:
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    return b"".join(compressor.compress(bytes(1 << 20)) for _ in range(size >> 20)) + compressor.flush()


def rle_blocks() -> bytes:
    """A zstd frame of blocks that stand for 128 KiB each and take four bytes."""
    block = (1 << 1 | (128 << 10) << 3).to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x70" + block * 4000


def bomb(layout: Layout, kind: str) -> LayerBlob:
    if kind == "rle":
        return layer(layout, "zstd", rle_blocks())
    return layer(layout, kind, gzip_of_zeros(64 << 20) if kind == "gzip" else zstd_of_zeros(64 << 20))


@pytest.mark.parametrize("kind", ["gzip", "zstd", "rle"])
@pytest.mark.parametrize("limits", [SMALL, Limits(expansion=10, expansion_floor=1 << 20), Limits(layer_bytes=2 << 20)])
def test_a_stream_that_expands_too_far(open_service: OpenService, layout: Layout, kind: str, limits: Limits) -> None:
    layout.add_image("bad", [bomb(layout, kind)])
    refused(open_service(limits=limits), layout, LimitExceeded)


def test_a_zstd_window_that_nobody_has_the_memory_for(open_service: OpenService, layout: Layout) -> None:
    """The frame header alone would have a decoder set 2 GiB aside."""
    layout.add_image("bad", [layer(layout, "zstd", b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(100))])
    refused(open_service(), layout, LimitExceeded)


def test_empty_members_without_end(open_service: OpenService, layout: Layout) -> None:
    """A blob of headers and trailers only: nothing comes of it, and it takes no more time than its size is worth."""
    start = time.monotonic()
    layout.add_image("bad", [layer(layout, "gzip", gzip.compress(b"", mtime=0) * 100_000)])
    refused(open_service(), layout, BadImage)
    layout.add_image("bad", [layer(layout, "zstd", zstandard.ZstdCompressor().compress(b"") * 100_000)])
    refused(open_service(), layout, BadImage)
    assert time.monotonic() - start < 30


def test_the_default_limits_hold_for_holes(open_service: OpenService, layout: Layout) -> None:
    """A quarter of a tebibyte of nothing in a kilobyte would be hashed for minutes."""
    start = time.monotonic()
    layout.add_image("bad", [layout.add_layer(pax_sparse(DEFAULT_LIMITS.file_bytes, 0, b""))])
    refused(open_service(), layout, LimitExceeded)
    assert time.monotonic() - start < 20


def test_refusing_a_million_names_takes_little_memory(open_service: OpenService, layout: Layout) -> None:
    """What was declared beyond the limit is never held."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    layout.add_image("bad", [layout.add_layer(lambda out: out.write(many_files(200_000)))])
    refused(open_service(limits=Limits(entries=10_000)), layout, LimitExceeded)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (300 << 10)
