"""ELF files and ld.so's cache: what is read of them, and what is refused."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import BadImage, LimitExceeded
from als.lazy.elf import HEAD_BYTES, Elf, Machine, Span, read_elf
from als.lazy.ldcache import CACHE_MAX, parse_cache
from tests.lazy.elves import elf, ld_cache

AMD64 = Machine(64, True, 62)


def read(data: bytes) -> tuple[Elf, list[Span]]:
    """What is found, and what of the file was asked for."""
    spans: list[Span] = []
    reader = read_elf(data[:HEAD_BYTES], len(data))
    try:
        wanted = next(reader)
        while True:
            assert all(0 <= each.offset < each.offset + each.length <= len(data) for each in wanted)
            spans += wanted
            wanted = reader.send(tuple(data[each.offset : each.offset + each.length] for each in wanted))
    except StopIteration as stop:
        assert isinstance(stop.value, Elf)
        return stop.value, spans


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("padding", [0, 100_000])
def test_all_that_a_loader_is_told(bits: int, order: str, padding: int) -> None:
    data = elf(
        [b"libone.so.1", b"two/lib.so"],
        b"/lib/ld.so",
        soname=b"me.so",
        rpath=b"/r",
        runpath=b"$ORIGIN",
        flags_1=0x800,
        bits=bits,
        order=order,
        machine=8,
        padding=padding,
    )
    found, _ = read(data)
    assert found == Elf(
        Machine(bits, order == "<", 8), b"/lib/ld.so", (b"libone.so.1", b"two/lib.so"), b"me.so", b"/r", b"$ORIGIN", True
    )


def test_little_is_read_of_a_large_file() -> None:
    _, spans = read(elf([b"a.so", b"b.so"], b"/lib/ld.so", padding=50_000_000))
    assert sum(each.length for each in spans) < 10_000


def test_of_a_real_program() -> None:
    found, spans = read(Path(sys.executable).resolve().read_bytes())
    assert found.interpreter.startswith(b"/lib")
    assert any(name.startswith(b"libc.") for name in found.needed)
    assert len(spans) < 20


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


GOOD = elf([b"libone.so.1"], b"/lib/ld.so")
PHDRS = 64


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"#!/bin/sh\n" + bytes(100),
        changed(GOOD, 4, b"\3"),
        changed(GOOD, 5, b"\0"),
        changed(GOOD, 16, b"\1"),
        changed(GOOD, 32, b"\xff" * 8),
        changed(GOOD, 54, b"\x38\0\xff\xff"),
        changed(GOOD, 54, b"\x10\0"),
        changed(GOOD, 56, b"\0\0"),
        changed(GOOD, PHDRS + 56 + 8, struct.pack("<Q", 1 << 63)),
        changed(GOOD, PHDRS + 56 + 32, struct.pack("<Q", 0)),
        changed(GOOD, PHDRS + 112 + 32, struct.pack("<Q", 1 << 40)),
        changed(GOOD, PHDRS + 112 + 8, struct.pack("<Q", len(GOOD))),
        changed(GOOD, PHDRS, b"\0"),
        GOOD[:-100],
        GOOD.replace(struct.pack("<qQ", 1, 1), struct.pack("<qQ", 1, 1 << 62)),
        elf([b"x%d" % number for number in range(257)]),
        elf([b"y%d" % number + 900 * b"x" for number in range(100)]),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        read(data)


@given(st.binary(max_size=300), st.integers(0, len(GOOD)))
def test_any_bytes_end(data: bytes, at: int) -> None:
    """Whatever is asked for lies within the file (`read` sees to that), and nothing but BadImage is raised."""
    for each in (data, GOOD[:at] + data, changed(GOOD, at, data[: len(GOOD) - at])):
        try:
            found, _ = read(each)
        except BadImage:
            continue
        assert len(found.needed) <= 256


@pytest.mark.parametrize("old", [False, True])
def test_cache(old: bool) -> None:
    entries = [
        (b"liba.so.1", b"/usr/lib/glibc-hwcaps/x86-64-v3/liba.so.1"),
        (b"liba.so.1", b"/usr/lib/glibc-hwcaps/x86-64-v2/liba.so.1"),
        (b"liba.so.1", b"/usr/lib/liba.so.1"),
        (b"libb.so", b"/opt/libb.so"),
    ]
    cache = parse_cache(ld_cache(entries, old=old))
    assert list(cache.paths(b"libb.so", AMD64, ())) == [b"/opt/libb.so"]
    assert list(cache.paths(b"liba.so.1", AMD64, ())) == [b"/usr/lib/liba.so.1"]
    assert list(cache.paths(b"liba.so.1", AMD64, (b"x86-64-v2",))) == [entries[1][1], entries[2][1]]
    assert list(cache.paths(b"liba.so.1", AMD64, (b"x86-64-v3", b"x86-64-v2"))) == [each[1] for each in entries[:3]]
    assert list(cache.paths(b"liba.so.1", Machine(32, True, 3), ())) == []
    assert list(cache.paths(b"none", AMD64, ())) == []


def test_the_cache_of_this_machine() -> None:
    cache = parse_cache(Path("/etc/ld.so.cache").read_bytes())
    found = [path for paths in cache.libraries.values() for path in paths]
    assert len(found) > 10
    assert sum(Path(each.path.decode()).exists() for each in found) > len(found) * 0.9


@pytest.mark.parametrize("data", [b"", b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1" + bytes(10), ld_cache([(b"a", b"/a")])[:60]])
def test_no_cache(data: bytes) -> None:
    with pytest.raises(BadImage):
        parse_cache(data)


def test_a_cache_that_repeats_itself() -> None:
    """Entries that all point into one long string would be gigabytes of text."""
    count = 20_000
    start = 48 + 24 * count
    table = struct.pack("<iIIIQ", 0x303, start, start, 0, 0) * count
    header = struct.pack("<20sIIB19x", b"glibc-ld.so.cache1.1", count, 4000, 2)
    with pytest.raises(LimitExceeded):
        parse_cache(header + table + 4000 * b"a" + b"\0")
    with pytest.raises(LimitExceeded):
        parse_cache(bytes(CACHE_MAX + 1))
