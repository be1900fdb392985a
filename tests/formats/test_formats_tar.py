"""Single features of tar, and archives that nobody should write."""

from __future__ import annotations

import random

import pytest

from als.errors import AlsError, BadImage, LimitExceeded, Unsupported
from als.formats.tar.parser import TarParser
from als.model.entry import EntryType
from als.model.limits import Limits
from tests.formats.streams import refusal
from tests.formats.tarblocks import BLOCK, END, GNU, header, only, padded, pax, read, record

# -- single features


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644), (b" 644   \0", 0o644), (b"644", 0o644), (b"\0\0\0", 0), (b"7777777 ", 0o7777777),
        (b"12\0garb", 0o12), (b"\x80\0\0\0\0\0\x10\0", 4096), (b"\xff" * 8, -1), (b"\xff\xff\xff\xff\xff\xff\xff\0", -256),
    ],
)  # fmt: skip
def test_numbers(field: bytes, value: int) -> None:
    assert only(header(uid=field))[0].uid == value


@pytest.mark.parametrize("field", [b"8", b"0x10", b"-1", b"1_0", b"7 7", b" \x80\0\0"])
def test_numbers_that_are_none(field: bytes) -> None:
    with pytest.raises(BadImage):
        read(header(uid=field))


def test_numbers_beyond_64_bits() -> None:
    with pytest.raises(BadImage, match="64 bits"):
        read(header(size=b"\x80\0\0\x01" + bytes(8)))


def test_a_checksum_of_signed_bytes() -> None:
    block = bytearray(header(name="é".encode()))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    assert only(bytes(block))[0].path == "é".encode()
    block[0] ^= 1
    with pytest.raises(BadImage, match="checksum"):
        read(bytes(block))


@pytest.mark.parametrize(
    ("block", "path"),
    [
        (header(b"n" * 100, prefix=b"p" * 155), b"p" * 155 + b"/" + b"n" * 100),
        (header(prefix=b"p" * 140 + b"\0", trailer=b"tar\0"), b"p" * 131 + b"/x"),
        (header(magic=GNU, prefix=b"01234567012\x0001234567012\0"), b"x"),
        (header(magic=GNU, prefix=b"dir/of/old/go/writers"), b"dir/of/old/go/writers/x"),
        (header(magic=b"", prefix=b"ignored in v7"), b"x"),
    ],
    ids=["ustar", "star", "gnu times", "gnu of old Go", "v7"],
)
def test_prefixes(block: bytes, path: bytes) -> None:
    assert only(block)[0].path == path


def test_a_v7_directory_is_told_by_its_slash() -> None:
    assert only(header(b"d/", b"\0", magic=b""))[0].type is EntryType.DIR
    assert only(header(b"d/", b"0"))[0].type is EntryType.FILE


@pytest.mark.parametrize("typeflag", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_only_files_have_a_payload(typeflag: bytes) -> None:
    layer = read(header(b"a", typeflag, b"1000", linkname=b"t") + header(b"b"))
    assert [(entry.path, entry.size) for entry, _ in layer.entries] == [(b"a", 0), (b"b", 0)]


def test_gnu_long_names_and_links() -> None:
    long = header(b"././@LongLink", b"L", b"454") + padded(b"n" * 300)
    link = header(b"././@LongLink", b"K", b"311") + padded(b"t" * 200 + b"\0")
    entry, _ = only(pax(b"path=ignored", b"linkpath=ignored") + long + link + header(b"short", b"2", linkname=b"s"))
    assert (entry.path, entry.linkname) == (b"n" * 300, b"t" * 200)


def test_pax_overrides_and_the_last_of_equal_records_wins() -> None:
    records = [
        b"path=1st",
        b"path=2nd",
        b"uid=4000000000",
        b"gid=70000",
        b"size=3",
        b"mtime=-1.25",
        b"atime=5",
        b"hdrcharset=BINARY",
    ]
    entry, data = only(pax(*records) + header(b"x", size=b"7777") + padded(b"abc"))
    assert (entry.path, entry.uid, entry.gid, entry.size, data) == (b"2nd", 4_000_000_000, 70_000, 3, b"abc")
    assert (entry.mtime, entry.mtime_ns) == (-2, 750_000_000)


def test_an_empty_pax_value_leaves_the_header_s() -> None:
    entry, _ = only(pax(b"path=", b"uid=", b"mtime=") + header(b"x", uid=b"5", mtime=b"6"))
    assert (entry.path, entry.uid, entry.mtime) == (b"x", 5, 6)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (b"1", (1, 0)), (b"1.", (1, 0)), (b"0.000000001", (0, 1)), (b"1.9999999999", (1, 999_999_999)),
        (b"-0.5", (-1, 500_000_000)), (b"-1", (-1, 0)), (b"4102444800.25", (4102444800, 250_000_000)),
    ],
)  # fmt: skip
def test_pax_times(text: bytes, time: tuple[int, int]) -> None:
    entry, _ = only(pax(b"mtime=" + text) + header())
    assert (entry.mtime, entry.mtime_ns) == time


def test_xattrs_are_binary_and_of_two_kinds() -> None:
    records = [
        b"SCHILY.xattr.user.bin=\0=\n\xff", b"SCHILY.xattr.user.empty=", b"LIBARCHIVE.xattr.user.a%3Db=AP8",
        b"LIBARCHIVE.xattr.user.bin=AAAA", b"SCHILY.fflags=uchg",
    ]  # fmt: skip
    entry, _ = only(pax(*records) + header())
    assert dict(entry.xattrs) == {b"user.bin": b"\0=\n\xff", b"user.empty": b"", b"user.a=b": b"\0\xff"}


def test_a_global_header_changes_nothing() -> None:
    layer = read(pax(b"path=g", b"uid=7", typeflag=b"g") + header(b"a") + header(b"b"))
    assert [(entry.path, entry.uid) for entry, _ in layer.entries] == [(b"a", 0), (b"b", 0)]


@pytest.mark.parametrize(
    "content",
    [
        b"7 a=b\n", b"6 a=bX", b"3 a", b"x a=b\n", b"6 abb\n", b"5 =a\n", b"11 path=a\0\n", b"10 a\0b=cd\n", b"06 a=b\n9",
        record(b"mtime=1e5"), record(b"size=-"), record(b"uid=99999999999999999999"), record(b"GNU.sparse.numbytes=1"),
        record(b"LIBARCHIVE.xattr.a=!"), record(b"size=-1"),
    ],
)  # fmt: skip
def test_malformed_pax_records(content: bytes) -> None:
    with pytest.raises(BadImage):
        read(header(b"p", b"x", b"%o" % len(content)) + padded(content) + header())


def test_old_gnu_sparse_with_extension_blocks() -> None:
    runs = [(number * 1000, 10) for number in range(40)]
    table = b"".join(b"%011o\0%011o\0" % run for run in runs)
    first = header(b"s", b"S", b"%o" % 400, GNU, sparse=table[:96], extended=b"\1", realsize=b"%011o\0" % 50_000)
    extensions = table[96:600] + b"\1" + bytes(7) + table[600:].ljust(512, b"\0")
    entry, stored = only(first + extensions + padded(bytes(range(200)) * 2))
    assert entry.extents == tuple(runs)
    assert (entry.size, entry.stored, stored) == (50_000, 400, bytes(range(200)) * 2)


@pytest.mark.parametrize(
    "table",
    [b"%011o\0%011o\0" % (90, 20), b"%011o\0%011o\0%011o\0%011o\0" % (10, 5, 12, 5), b"%011o\0%011o\0" % (0, 9), b"9" * 24],
    ids=["beyond the end", "overlap", "not all that is stored", "no number"],
)
def test_sparse_maps_that_cannot_be(table: bytes) -> None:
    with pytest.raises(BadImage):
        read(header(b"s", b"S", b"12", GNU, sparse=table, realsize=b"144") + padded(bytes(10)))


@pytest.mark.parametrize("content", [b"1\n0\n", b"-1\n", b"x\n", b"1\n5\nx\n", b"2\n0\n1\n"])
def test_pax_sparse_maps_that_cannot_be(content: bytes) -> None:
    records = pax(b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.realsize=5")
    with pytest.raises(BadImage):
        read(records + header(b"s", size=b"1000") + padded(content) + END)


def test_a_sparse_map_of_an_unknown_version_is_content() -> None:
    entry, stored = only(pax(b"GNU.sparse.major=2", b"GNU.sparse.minor=0") + header(b"s", size=b"3") + padded(b"abc"))
    assert (entry.extents, stored) == (None, b"abc")


@pytest.mark.parametrize("typeflag", [b"V", b"M", b"D", b"N", b"A", b"Z", b"9"])
def test_types_that_podman_refuses(typeflag: bytes) -> None:
    with pytest.raises(Unsupported, match="unknown type"):
        read(header(typeflag=typeflag))


def test_a_star_sparse_file_is_refused() -> None:
    with pytest.raises(Unsupported):
        read(header(typeflag=b"S", trailer=b"tar\0"))


# -- how archives end

FILE = header(b"f", size=b"1010") + padded(b"y" * 520)


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), END, END + bytes(9000), END + b"anything at all"])
def test_ends(end: bytes) -> None:
    layer = read(FILE + end)
    assert layer.stream == FILE + end
    assert [stored for _, stored in layer.entries] == [b"y" * 520]


def test_missing_padding_after_the_last_file_is_tolerated() -> None:
    assert read(FILE[: BLOCK + 520]).entries == read(FILE).entries


def test_a_zero_block_in_between_is_an_error() -> None:
    with pytest.raises(BadImage, match="zero block"):
        read(FILE + bytes(BLOCK) + FILE)


def test_an_empty_stream_is_an_empty_layer() -> None:
    assert read(b"").entries == []


def test_truncation_anywhere_is_an_error_or_a_clean_end() -> None:
    """At each block boundary, and at one place within each block, of an archive with every kind of header."""
    raw = FILE + pax(b"path=" + b"p/" * 300) + header(b"q", size=b"5") + padded(b"12345")
    raw += header(b"L", b"L", b"1130") + padded(b"l/" * 300) + header(b"d", b"5") + FILE + END
    clean = 0
    for at in {*range(0, len(raw), BLOCK), *range(100, len(raw), BLOCK)}:
        error = refusal(raw[:at], TarParser)
        assert error is None or type(error) is BadImage
        clean += error is None
    assert 5 < clean < 16


# -- limits


def test_limits() -> None:
    for raw, limits in (
        (header(size=b"\x80" + bytes(4) + b"\xff" * 7), Limits()),
        (FILE, Limits(file_bytes=519)),
        (FILE, Limits(layer_bytes=1000)),
        (header(b"p", b"x", b"77777777"), Limits()),
        (header(b"L", b"L", b"10001"), Limits(header_bytes=4096)),
        (header(b"s", b"S", b"0", GNU, realsize=b"\x80\0\0\0\0\0\xff\0\0\0\0\0"), Limits(layer_bytes=1 << 30)),
        (pax(b"GNU.sparse.major=1", b"GNU.sparse.minor=0") + header(size=b"77777777") + b"1" * 8192, Limits(header_bytes=4096)),
    ):
        with pytest.raises(LimitExceeded):
            read(raw, limits=limits)


def test_mutilated_archives_are_read_or_refused() -> None:
    pax_map = pax(b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.realsize=9") + header(size=b"1003")
    old_map = header(b"s", b"S", b"3", GNU, sparse=b"%011o\0%011o\0" % (5, 3), extended=b"\1", realsize=b"12")
    seeds = [
        FILE + END,
        pax(b"path=pax", b"size=3", b"SCHILY.xattr.a=b") + header(size=b"3") + padded(b"abc") + END,
        pax_map + padded(b"1\n6\n3\n") + padded(b"abc"),
        old_map + bytes(BLOCK) + padded(b"abc"),
        header(b"L", b"L", b"5") + padded(b"l/../") + header(typeflag=b"1", linkname=b"l") + header(b"d/", b"\0", magic=b""),
    ]
    chance = random.Random(11)
    outcomes = {True: 0, False: 0}
    for _ in range(1500):
        raw = bytearray(chance.choice(seeds))
        block = chance.randrange(len(raw) // BLOCK) * BLOCK
        for _ in range(chance.randrange(1, 4)):
            at = block + chance.choice((0, 100, 108, 116, 124, 130, 136, 156, 157, 257, 263, 345, 386, 398, 482, 483, 508))
            raw[at : at + 3] = chance.choice((b"\0\0\0", b"777", b"\xff\xff\xff", b"\x80\0\0", b" - ", b"../"))
        del raw[block + BLOCK * 8 :]
        raw[block + 148 : block + 156] = b" " * 8
        raw[block + 148 : block + 156] = b"%06o\0 " % sum(raw[block : block + BLOCK])
        if chance.random() < 0.2:
            del raw[chance.randrange(len(raw)) :]
        error = refusal(bytes(raw), TarParser, (chance.randrange(1, 2000),))
        assert error is None or isinstance(error, AlsError)
        outcomes[error is None] += 1
    assert min(outcomes.values()) > 100
