"""What is done beside the thread that takes a layer apart: hashing the stream, writing small objects, syncing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from als.errors import StoreDamaged
from als.fetch.streamhash import StreamHash
from als.fetch.writeback import Writeback
from als.model.forest import forest_path
from als.store.beside import Beside, SmallObjects
from als.store.layout import Layout
from als.store.objects import Forest


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "root")
    layout.create()
    return layout


@given(sizes=st.lists(st.integers(0, 700_000) | st.integers((1 << 20) - 2, (1 << 20) + 2) | st.just(3 << 20), max_size=12))
@settings(max_examples=30, deadline=None)
def test_a_stream_in_any_pieces_has_one_digest(sizes: list[int]) -> None:
    stream, expected = StreamHash(), hashlib.sha256()
    for number, size in enumerate(sizes):
        piece = bytearray([number + 1]) * size
        expected.update(piece)
        stream.update(memoryview(piece))
        piece[:] = bytes(size)  # What was handed over may be overwritten.
    stream.close()
    assert stream.digest() == expected.digest()


def test_an_error_is_raised_by_the_next_call_and_only_once() -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    done: list[int] = []
    beside = Beside("test")
    beside.run(fail)
    with pytest.raises(OSError, match="No space left"):
        beside.run(lambda: done.append(1))
    beside.run(lambda: done.append(2))
    beside.wait()
    beside.close()
    assert done == [2]


def test_small_objects_are_there_when_settled(layout: Layout, tmp_path: Path) -> None:
    known = Forest(layout, tmp_path / "known")
    known.add(b"known")
    known.commit()
    forest = Forest(layout, tmp_path / "new")
    small = SmallObjects(forest)
    contents = [b"known", b"", b"x" * (1 << 20), *(b"%d" % (number % 2000) for number in range(3000))]
    names = [small.add(data) for data in contents]
    small.settle()
    small.close()
    assert names == [hashlib.sha256(data).digest() for data in contents]
    for name, data in zip(names, contents, strict=True):
        assert (tmp_path / "new" / forest_path(name)).read_bytes() == data
    assert forest.sizes == {name: len(data) for name, data in zip(names, contents, strict=True)}
    assert forest.new_bytes == sum(len(data) for data in set(contents)) - len(b"known")
    linked = tmp_path / "new" / forest_path(names[0])
    assert linked.stat().st_ino == layout.object(names[0]).stat().st_ino


def test_a_small_object_that_cannot_be_written_is_reported(layout: Layout, tmp_path: Path) -> None:
    small = SmallObjects(Forest(layout, tmp_path / "new"))
    name = small.add(b"content")
    (tmp_path / "new" / forest_path(name)).write_bytes(b"in the way")
    with pytest.raises(FileExistsError, match=name.hex()):
        small.settle()
    small.close()


def test_a_damaged_object_is_not_linked(layout: Layout, tmp_path: Path) -> None:
    layout.object(hashlib.sha256(b"content").digest()).write_bytes(b"torn")
    small = SmallObjects(Forest(layout, tmp_path / "new"))
    small.add(b"content")
    with pytest.raises(StoreDamaged):
        small.settle()
    small.close()


def test_an_error_of_writing_back_is_not_lost(tmp_path: Path) -> None:
    writeback = Writeback(tmp_path / "missing")
    writeback.reached(1)
    writeback.reached(1 << 30)
    with pytest.raises(FileNotFoundError):
        writeback.settle()
    writeback.close()
