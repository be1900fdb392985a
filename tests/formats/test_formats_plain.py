"""Entries that are read many at a time are what they are one by one."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import AlsError
from als.formats.codecs import Compression
from als.formats.index import Columns, LayerIndex
from als.formats.indexbuilder import EMPTY_SHA256, IndexBuilder
from als.formats.plainrows import PlainRows
from als.formats.toc import entries
from als.formats.toc.entries import TocReader
from als.formats.toc.fields import Raw, Times
from als.formats.toc.plain import plain_rows
from als.model.limits import DEFAULT_LIMITS, Limits
from tests.formats.tocbuilder import document_of

BLOB = 1 << 20
PAYLOAD = 1_000_000
COUNT = 600
"""Entries of a document: two blocks, and a part of one."""
CHUNKED = 9
"""Every tenth entry is a file of three chunks, the second of them a hole."""


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def usual(number: int) -> Raw:
    """An entry like those of most layers."""
    name = f"./d/{number:04}"
    common: Raw = {"name": name, "mode": 0o644, "modtime": "2026-01-02T03:04:05Z", "uid": number % 3}
    match number % 10:
        case 0:
            return {**common, "type": "dir", "name": name + "/"}
        case 1:
            return {**common, "type": "symlink", "linkName": "../target"}
        case 2:
            return {**common, "type": "hardlink", "linkName": "d/0003"}
        case 3:
            return {**common, "type": "reg", "digest": f"sha256:{EMPTY_SHA256.hex()}"}
        case 4:
            return {**common, "type": "reg"}
    chunk = {"chunkDigest": digest(number)} if number % 2 else {}
    own = {"size": number + 1, "offset": 1000 * number, "digest": digest(number)}
    return {**common, "type": "reg", **own, **chunk, **({"endOffset": 1000 * number + 900} if number % 3 else {})}


def chunked(number: int) -> list[Raw]:
    """A file of 3,000 bytes."""
    start = 1000 * number
    own = {"size": 3000, "digest": digest(number), "endOffset": start + 900, "offset": start}
    head = {**usual(number), **own, "chunkSize": 1000, "chunkDigest": digest(10_000 + number)}
    common: Raw = {"type": "chunk", "name": head["name"]}
    hole = {**common, "offset": start + 300, "chunkOffset": 1000, "chunkSize": 500, "chunkDigest": digest(1)}
    last = {**common, "offset": start + 310, "chunkOffset": 1500, "chunkDigest": digest(20_000 + number)}
    return [head, {**hole, "chunkType": "zeros"}, last if number % 20 < 10 else {**last, "chunkSize": 1500}]


def document() -> list[Raw]:
    return [raw for number in range(1, COUNT) for raw in (chunked(number) if number % 10 == CHUNKED else [usual(number)])]


ROWS = len(document())


CHANGES: list[Raw] = [
    {"size": 0},
    {"size": -1},
    {"size": True},
    {"size": None},
    {"size": "1"},
    {"size": 1 << 63},
    {"size": 1 << 50},
    {"offset": 0},
    {"offset": 5000},
    {"offset": PAYLOAD},
    {"offset": PAYLOAD - 1},
    {"offset": 1.5},
    {"endOffset": 1},
    {"endOffset": PAYLOAD + 1},
    {"endOffset": 999_999},
    {"innerOffset": 7},
    {"chunkSize": 3},
    {"chunkOffset": 3},
    {"chunkType": "zeros"},
    {"chunkType": "odd"},
    {"chunkDigest": ""},
    {"chunkDigest": None},
    {"chunkDigest": digest(9)},
    {"digest": digest(0xABC).upper()},
    {"digest": digest(0xABC).replace("abc", "ABC")},
    {"digest": "sha256:" + "0" * 63},
    {"digest": "sha256:" + "0" * 63 + "é"},
    {"digest": "sha512:" + "0" * 64},
    {"digest": None},
    {"digest": 1},
    {"digest": digest(7)},
    {"name": "./d/0001"},
    {"name": "d/0001/"},
    {"name": "/d/0001"},
    {"name": "d/./0001"},
    {"name": "d/../x"},
    {"name": ""},
    {"name": "/"},
    {"name": "./a//b"},
    {"name": "a\0b"},
    {"name": "d/.hidden"},
    {"name": "lost \N{REPLACEMENT CHARACTER}"},
    {"name": "\ud800"},
    {"name": "ümlaut"},
    {"name": None},
    {"name": 5},
    {"name": "x" * 5000},
    {"name": ".no.prefetch.landmark"},
    {"name": "./.prefetch.landmark"},
    {"name": "stargz.index.json", "type": "dir"},
    {"name": "d/.prefetch.landmark"},
    {"type": "chunk", "name": ""},
    {"type": "chunk", "name": "d/0001"},
    {"type": "fifo"},
    {"type": "char", "devMajor": 1, "devMinor": 3},
    {"type": "block", "devMajor": -1},
    {"type": "odd"},
    {"type": None},
    {"type": ["reg"]},
    {"type": "symlink"},
    {"type": "hardlink", "linkName": None},
    {"type": "symlink", "linkName": 3},
    {"linkName": "lost \N{REPLACEMENT CHARACTER}", "type": "symlink"},
    {"linkName": 3},
    {"xattrs": {"user.x": "eA=="}},
    {"xattrs": None},
    {"xattrs": {"user.x": "?"}},
    {"modtime": "no time"},
    {"modtime": None},
    {"modtime": 5},
    {"modtime": "1960-01-01T00:00:00.5+01:00"},
    {"mode": -1},
    {"mode": 1 << 32},
    {"uid": 1 << 32},
    {"gid": (1 << 32) - 1},
    {"userName": "somebody"},
    {"comment": "unknown"},
    {"Size": 3},
    {"chunkOffset": 1000},
    {"chunkOffset": 999},
    {"chunkOffset": None},
    {"chunkSize": 500},
    {"chunkSize": 1000},
    {"chunkSize": 0},
    {"chunkSize": "1"},
    {"chunkType": ["zeros"]},
    {"chunkType": ""},
    {"offset": 9300},
    {"offset": 9310},
    {"offset": 9000},
    {"devMajor": 0},
]


def parse(rows: list[Raw], limits: Limits, bookkeeping: bool) -> LayerIndex | str:
    """The index of a document, or the kind of the error."""
    builder = IndexBuilder(Compression.GZIP, BLOB, PAYLOAD, limits)
    text = document_of(copy.deepcopy(rows))
    try:
        contents = TocReader(builder, limits, bookkeeping=bookkeeping).read(iter([text]))
        return builder.finish((), contents.prefetch)
    except AlsError as error:
        return f"{type(error).__name__} {error.what} {error.where}"


def columns_of(found: LayerIndex | str) -> object:
    if isinstance(found, str):
        return found
    values = {each.name: getattr(found.columns, each.name) for each in fields(Columns)}
    return {name: bytes(value) if isinstance(value, bytearray) else value for name, value in values.items()}, found.prefetch


def check(rows: list[Raw], patch: pytest.MonkeyPatch, limits: Limits = DEFAULT_LIMITS, bookkeeping: bool = True) -> object:
    """Both ways give the same; what that is."""
    quick = columns_of(parse(rows, limits, bookkeeping))
    with patch.context() as context:
        context.setattr(entries, "plain_rows", lambda *_: None)
        assert columns_of(parse(rows, limits, bookkeeping)) == quick
    return quick


def test_a_usual_document_takes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(check(document(), monkeypatch), str)
    taken: list[bool] = []
    add_plain = IndexBuilder.add_plain

    def watched(builder: IndexBuilder, rows: PlainRows) -> bool:
        taken.append(add_plain(builder, rows))
        return taken[-1]

    monkeypatch.setattr(IndexBuilder, "add_plain", watched)
    parse(document(), DEFAULT_LIMITS, True)
    assert taken == [True] * len(taken)
    assert len(taken) < 6


@pytest.mark.parametrize("change", CHANGES, ids=json.dumps)
def test_what_is_out_of_the_ordinary(change: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file, in a name of another kind, in each chunk of a file, and where a block ends."""
    rows = document()
    ends = [number for number in (254, 255, 256, 257) if rows[number].get("type") != "chunk"]
    for number in (4, 8, 9, 10, 29, *ends, ROWS - 3):
        rows = document()
        rows[number].update(change)
        check(rows, monkeypatch)


def test_a_chunk_more_or_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken away, or given twice, in every place of the first file with several, and of one across a border."""
    for number in (7, 8, 9, 10, *range(250, 262), ROWS - 1):
        rows = document()
        check(rows[:number] + rows[number + 1 :], monkeypatch)
        check(rows[:number] + rows[number : number + 1] + rows[number:], monkeypatch)


@pytest.mark.parametrize("length", [1, 2, 3, 255, 256, 257, 258, 300])
def test_documents_that_end_anywhere(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(document()[:length], monkeypatch)


def test_one_file_of_very_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    head, *_ = chunked(CHUNKED)
    count = 3000
    head |= {"size": count, "chunkSize": 1, "endOffset": 900_000}
    more = [
        {"type": "chunk", "name": head["name"], "offset": 9000 + number, "chunkOffset": number, "chunkSize": 1}
        | {"chunkDigest": digest(number)}
        for number in range(1, count)
    ]
    assert not isinstance(check([usual(1), head, *more], monkeypatch), str)


def limits_by_turns() -> Iterator[Limits]:
    for name, values in {
        "entries": (COUNT - 1, COUNT - 2, 100),
        "path_bytes": (7, 8),
        "metadata_bytes": (5000, 100),
        "file_bytes": (3000, 2999, 300, 299),
        "layer_bytes": (250_000, 50_000),
        "chunks": (COUNT, 200, 2),
    }.items():
        for value in values:
            yield Limits(**{name: value})


@pytest.mark.parametrize("limits", list(limits_by_turns()), ids=str)
def test_limits(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    check(document(), monkeypatch, limits)


@given(
    st.lists(st.tuples(st.integers(0, ROWS - 1), st.sampled_from(CHANGES)), max_size=4),
    st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1)), max_size=2),
    st.booleans(),
)
def test_several_at_once(changes: list[tuple[int, Raw]], moves: list[tuple[int, int]], bookkeeping: bool) -> None:
    rows = document()
    for number, change in changes:
        rows[number].update(change)
    for start, end in moves:
        rows.insert(end, rows.pop(start))
    with pytest.MonkeyPatch.context() as patch:
        check(rows, patch, bookkeeping=bookkeeping)


def test_nothing_is_refused_by_it() -> None:
    assert plain_rows([], Times()) is not None
    assert plain_rows([{}], Times()) is None
