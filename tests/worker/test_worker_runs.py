"""What a parse worker tells of a layer, and what may have become of it on the way."""

from __future__ import annotations

import contextlib
import os
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from als.errors import WorkerError
from als.model.entry import Entry, EntryType
from als.worker.frames import END, RUN, FrameReader, FrameWriter
from als.worker.runs import RunWriter, pack_entry, unpack_entry, unpack_run

U64 = st.integers(0, (1 << 64) - 1)
ENTRIES = st.builds(
    Entry,
    path=st.binary(max_size=300),
    type=st.sampled_from(EntryType),
    mode=st.integers(0, 0xFFFF),
    uid=U64,
    gid=U64,
    mtime=st.integers(-(1 << 63), (1 << 63) - 1),
    mtime_ns=st.integers(0, 999_999_999),
    size=U64,
    stored=U64,
    linkname=st.binary(max_size=300),
    rdev=st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1)),
    xattrs=st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=99))).map(tuple),
    extents=st.none() | st.lists(st.tuples(U64, U64)).map(tuple),
)


@given(entry=ENTRIES, position=st.integers(0, (1 << 32) - 1))
def test_an_entry_arrives_as_sent(entry: Entry, position: int) -> None:
    packed = pack_entry(position, entry)
    assert unpack_entry(b"before" + packed + b"behind", 6) == (position, entry, 6 + len(packed))


@given(entry=ENTRIES, data=st.data())
def test_a_cut_or_changed_entry_is_an_error_or_an_entry(entry: Entry, data: st.DataObject) -> None:
    packed = bytearray(pack_entry(0, entry))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    cut = packed[: data.draw(st.integers(0, len(packed)))]
    with contextlib.suppress(WorkerError):
        _, found, end = unpack_entry(bytes(cut), 0)
        assert isinstance(found, Entry)
        assert end <= len(cut)


def test_an_entry_that_declares_endless_lists_costs_nothing() -> None:
    packed = bytearray(pack_entry(0, Entry(b"x", EntryType.FILE)))
    struct.pack_into("<I", packed, len(packed) - 5, 0xFFFFFFF0)
    with pytest.raises(WorkerError):
        unpack_entry(bytes(packed), 0)


def sent(items: list[bytes | Entry]) -> list[bytes | Entry]:
    """What arrives of data and entries, neighbouring data as one."""
    read_end, write_end = os.pipe()

    def idle() -> None:
        raise WorkerError("nothing came")

    def feed() -> None:
        out = FrameWriter(write_end)
        runs = RunWriter(out)
        for item in items:
            if isinstance(item, Entry):
                runs.entry(item)
            else:
                runs.data(item)
        runs.flush()
        out.write_json(END, {})
        out.flush()

    thread = threading.Thread(target=feed)
    thread.start()
    found: list[bytes | Entry] = []
    try:
        for kind, body in FrameReader(read_end, idle).frames():
            if kind != RUN:
                continue
            entries, data = unpack_run(body)
            at = 0
            for position, entry in entries:
                found += (bytes(data[at:position]), entry)
                at = position
            found.append(bytes(data[at:]))
    finally:
        os.close(read_end)
        thread.join()
        os.close(write_end)
    return joined(found)


def joined(items: list[bytes | Entry]) -> list[bytes | Entry]:
    result: list[bytes | Entry] = []
    for item in items:
        last = result[-1] if result else None
        if isinstance(item, bytes) and isinstance(last, bytes):
            result[-1] = last + item
        elif item:
            result.append(item)
    return result


BIG = Entry(b"big", EntryType.FILE, xattrs=((b"user.big", bytes(700_000)),))


@given(items=st.lists(ENTRIES | st.just(BIG) | st.binary(max_size=300) | st.integers(0, 1 << 20).map(bytes), max_size=30))
@settings(max_examples=50, deadline=None)
def test_a_stream_and_its_entries_arrive_as_sent(items: list[bytes | Entry]) -> None:
    assert sent(items) == joined(items)


@pytest.mark.parametrize("body", [b"", b"\0\0\0", b"\1\0\0\0", struct.pack("<I", 0xFFFFFFFF) + b"x", b"\x01\0\0\0xyz"])
def test_a_run_that_is_none(body: bytes) -> None:
    with pytest.raises(WorkerError):
        unpack_run(memoryview(body))
