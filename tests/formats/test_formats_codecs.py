"""Decompression: whole, in any pieces, of any number of members, truncated, damaged, and as a bomb."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from als.errors import BadImage, LimitExceeded
from als.formats.codecs import MAGIC_BYTES, PIECE, Compression, decompressor, identify
from als.formats.zstdframes import FrameWalker
from als.model.limits import DEFAULT_LIMITS, Limits
from tests.formats.streams import pieces

SKIPPABLE = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345"


def inflate(kind: Compression, raw: bytes, sizes: tuple[int, ...] = (1 << 20,), limits: Limits = DEFAULT_LIMITS) -> bytes:
    stream = decompressor(kind, limits)
    result = []
    for piece in pieces(raw, sizes):
        for part in stream.feed(piece):
            assert 0 < len(part) <= PIECE
            result.append(part)
    stream.finish()
    return b"".join(result)


def gz(data: bytes, level: int = 6) -> bytes:
    return gzip.compress(data, level)


def zst(data: bytes, level: int = 3, **parameters: int) -> bytes:
    chosen = zstandard.ZstdCompressionParameters.from_level(level, **parameters)
    return zstandard.ZstdCompressor(compression_params=chosen).compress(data)


PACKERS: dict[Compression, Callable[[bytes], bytes]] = {Compression.GZIP: gz, Compression.ZSTD: zst, Compression.NONE: bytes}
EACH = pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])


def mixed(size: int) -> bytes:
    """Data of which some parts shrink and others do not."""
    chance = random.Random(3)
    parts: list[bytes] = []
    while sum(map(len, parts)) < size:
        parts.append(chance.choice((chance.randbytes(30_000), bytes(100_000), b"words and words " * 2000)))
    return b"".join(parts)[:size]


@pytest.mark.parametrize("kind", list(Compression))
def test_the_first_bytes_tell(kind: Compression) -> None:
    assert identify(PACKERS[kind](b"content")[:MAGIC_BYTES]) is kind
    assert identify(SKIPPABLE[:MAGIC_BYTES]) is Compression.ZSTD
    assert identify(b"") is Compression.NONE


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([Compression.GZIP, Compression.ZSTD]),
    st.lists(st.one_of(st.binary(max_size=3000), st.integers(0, 400_000).map(bytes)), min_size=1, max_size=5),
    st.lists(st.integers(1, 5000), min_size=1, max_size=5),
)
def test_members_in_any_pieces(kind: Compression, contents: list[bytes], sizes: list[int]) -> None:
    assert inflate(kind, b"".join(map(PACKERS[kind], contents)), tuple(sizes)) == b"".join(contents)


@pytest.mark.parametrize("kind", list(Compression))
def test_large_streams(kind: Compression) -> None:
    data = mixed(20_000_000)
    assert inflate(kind, PACKERS[kind](data), (65_536, 300_000, 1)) == data


@EACH
def test_many_small_members(kind: Compression) -> None:
    contents = [os.urandom(n % 50) for n in range(5000)]
    assert inflate(kind, b"".join(map(PACKERS[kind], contents))) == b"".join(contents)


@EACH
def test_an_empty_stream(kind: Compression) -> None:
    assert inflate(kind, b"") == b""
    assert inflate(kind, PACKERS[kind](b"")) == b""


@EACH
def test_truncated_anywhere(kind: Compression) -> None:
    whole = PACKERS[kind](mixed(3000))
    for end in range(1, len(whole), 7):
        with pytest.raises(BadImage, match="too early"):
            inflate(kind, whole[:end])
    with pytest.raises(BadImage):
        inflate(kind, whole + whole[: len(whole) // 2])


@EACH
@pytest.mark.parametrize("rest", [bytes(512), b"garbage that is no header", b"\x1f", b"\x28\xb5\x2f", b"\0"])
def test_what_follows_must_be_another_member(kind: Compression, rest: bytes) -> None:
    for sizes in ((1 << 20,), (7,)):
        with pytest.raises(BadImage):
            inflate(kind, PACKERS[kind](b"content") + rest, sizes)


@EACH
def test_damage_is_noticed(kind: Compression) -> None:
    """Both carry a checksum of the content; whatever gets past the structure is caught by it, save bits that mean nothing."""
    data = random.Random(9).randbytes(5000) + b"words " * 3000
    whole = gz(data) if kind is Compression.GZIP else zst(data, write_checksum=1)
    chance = random.Random(5)
    noticed = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            assert inflate(kind, bytes(damaged), (chance.randrange(1, 5000),)) == data
        except BadImage:
            noticed += 1
    assert noticed > 190


@pytest.mark.parametrize("flags", range(0, 32, 2))
def test_gzip_headers_with_optional_fields(flags: int) -> None:
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(b"content") + packer.flush()
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6)
    for flag, field in ((4, b"\3\0abc"), (8, b"name\0"), (16, b"comment\0")):
        head += field if flags & flag else b""
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") if flags & 2 else b""
    tail = zlib.crc32(b"content").to_bytes(4, "little") + (7).to_bytes(4, "little")
    for sizes in ((100,), (1,), (2,), (3, 11)):
        assert inflate(Compression.GZIP, (head + body + tail) * 2, sizes) == b"content" * 2
    with pytest.raises(BadImage, match="too early"):
        inflate(Compression.GZIP, head[:-1])


def test_a_gzip_name_without_an_end() -> None:
    for sizes in ((1000,), (7,)):
        with pytest.raises(BadImage, match="too long"):
            inflate(Compression.GZIP, b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 600, sizes)


def test_zstd_skippable_frames() -> None:
    raw = SKIPPABLE + zst(b"one") + SKIPPABLE + SKIPPABLE + zst(b"two") + SKIPPABLE
    for sizes in ((1000,), (1,), (3, 5)):
        assert inflate(Compression.ZSTD, raw, sizes) == b"onetwo"
    with pytest.raises(BadImage, match="too early"):
        inflate(Compression.ZSTD, raw[:-1])


@pytest.mark.parametrize(
    "options", [["-1"], ["-19"], ["--no-check"], ["--no-content-size"], ["--long=27"], ["-3", "-T2", "-B512K"]]
)
def test_what_the_zstd_tool_writes(options: list[str]) -> None:
    data = mixed(3_000_000)
    raw = subprocess.run(["zstd", "-q", "-c", *options], input=data, check=True, capture_output=True, timeout=60).stdout
    assert inflate(Compression.ZSTD, raw, (10_000,)) == data


def test_zstd_windows_have_a_limit() -> None:
    packer = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=28)).compressobj()
    with pytest.raises(LimitExceeded, match="window"):
        inflate(Compression.ZSTD, packer.compress(b"x" * 1000) + packer.flush())


@EACH
def test_bombs(kind: Compression) -> None:
    """A quarter of a GiB of zeros is fine and never in memory; more than the limits allow is stopped as soon as it is seen."""
    raw = PACKERS[kind](bytes(1 << 28))
    limits = Limits(expansion=100_000)
    stream = decompressor(kind, limits)
    tracemalloc.start()
    given_out = sum(len(part) for part in stream.feed(raw))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stream.finish()
    assert given_out == 1 << 28
    assert peak < 16 << 20
    for tight in (Limits(expansion=100, expansion_floor=1 << 20), Limits(layer_bytes=1 << 27)):
        with pytest.raises(LimitExceeded):
            inflate(kind, raw, limits=tight)


def test_runs_of_the_frame_walker_are_bounded() -> None:
    raw = zst(bytes(50_000_000), 1) + SKIPPABLE + zst(mixed(5_000_000), 1)
    walker = FrameWalker(1 << 27, 1 << 20)
    runs = [run for piece in pieces(raw, (1000, 70_000)) for run in walker.feed(piece)]
    assert b"".join(run.data for run in runs) == raw
    assert walker.between_frames
    assert [run.skippable for run in runs if run.first] == [False, True, False]
