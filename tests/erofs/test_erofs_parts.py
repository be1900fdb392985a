"""The writer's smaller parts: hash, name filter, escapes, device numbers, dumps."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from als.erofs.dump import dump_lines, escape
from als.erofs.layout import chunk_bits, decode_rdev, encode_rdev
from als.erofs.profile import LAYER
from als.erofs.xattrs import NameFilter, join_name, split_name, unescape
from als.erofs.xattrs import escape as escape_name
from als.erofs.xxh32 import xxh32
from als.model.tree import Tree
from tests.erofs.trees import XATTR_NAMES, describe, parse_dump, trees
from tests.erofs.trees import unescape as unescape_field


@pytest.mark.parametrize(
    ("text", "seed", "value"),
    [
        (b"", 0, 0x02CC5D05),
        (b"a", 0, 0x550D7456),
        (b"abc", 0, 0x32D153FF),
        (b"Nobody inspects the spammish repetition", 0, 0xE2293B2F),
    ],
)
def test_xxh32_vectors(text: bytes, seed: int, value: int) -> None:
    assert xxh32(text, seed) == value


def test_the_name_filter_clears_one_bit_for_each_hash() -> None:
    names = NameFilter()
    assert names.of([]) == 0xFFFFFFFF
    one, two = names.of([(b"user.a", b"")]), names.of([(b"user.b", b"")])
    assert one.bit_count() == two.bit_count() == 31
    assert names.of([(b"user.a", b"1"), (b"user.b", b"2")]) == one & two


@given(XATTR_NAMES)
def test_xattr_names_come_back(name: bytes) -> None:
    assert join_name(*split_name(name)) == name
    escaped = escape_name(name, LAYER.escaped)
    assert unescape(escaped, LAYER.escaped) == name
    assert not escaped.startswith((b"trusted.overlay.", b"user.overlay.")) or b".overlay.overlay." in escaped


@given(st.integers(0, 4095), st.integers(0, (1 << 20) - 1))
def test_device_numbers_are_the_c_librarys(major: int, minor: int) -> None:
    assert encode_rdev(major, minor) == os.makedev(major, minor)
    assert decode_rdev(encode_rdev(major, minor)) == (major, minor)


def test_one_chunk_holds_a_file() -> None:
    for size in [1, 4095, 4096, 4097, 1 << 20, (1 << 20) + 1, 1 << 43]:
        assert size <= 1 << chunk_bits(size)
        assert chunk_bits(size) == 12 or size > 1 << (chunk_bits(size) - 1)


@given(st.binary(max_size=40), st.booleans())
def test_dump_fields_come_back(text: bytes, equals: bool) -> None:
    field = escape(text, equals=equals)
    assert field.isascii()
    assert not set(field) & set(" \n\t\r" + "=" * equals)
    assert unescape_field(field) == text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=trees(layer=False))
def test_dumps_come_back(tree: Tree) -> None:
    verity = {name: name[::-1] for name in tree.contents()}
    found, digests = parse_dump("".join(dump_lines(tree, verity=verity)))
    assert digests == verity
    assert [entry[:9] for entry in describe(found).values()] == [entry[:9] for entry in describe(tree).values()]
    assert list(describe(found)) == list(describe(tree))
