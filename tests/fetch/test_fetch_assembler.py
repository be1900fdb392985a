"""The privileged side of the making of a layer, against workers that lie."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.errors import AlsError, BadImage, LimitExceeded, WorkerError
from als.fetch.assembler import INLINE_FILE, KEPT, SMALL_FILE, Assembler
from als.fetch.splits import Splits
from als.fetch.writeback import Writeback
from als.model.entry import Entry, EntryType
from als.model.forest import forest_path
from als.model.limits import Limits
from als.model.tree import Inode
from als.store.layers import Layers, Staging
from als.store.layout import Layout
from als.store.recipe import RecipeWriter
from als.worker.frames import DATA, END, RUN
from als.worker.runs import pack_entry


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    layout = Layout(tmp_path / "root")
    layout.create()
    with Layers(layout).stage() as staged:
        yield staged
    assert os.listdir(layout.tmp) == []


def assembler(staging: Staging, limits: Limits | None = None) -> Assembler:
    writeback = Writeback(staging.path)
    return Assembler(staging.forest, RecipeWriter(io.BytesIO()), Splits(staging, ()), writeback, limits or Limits(), "layer")


def take(target: Assembler, *frames: tuple[int, bytes]) -> None:
    for kind, body in frames:
        target.take(kind, memoryview(body))


def run(data: bytes, *entries: tuple[int, Entry]) -> tuple[int, bytes]:
    index = b"".join(pack_entry(position, entry) for position, entry in entries)
    return RUN, struct.pack("<I", len(index)) + index + data


def file(size: int, stored: int | None = None, extents: tuple[tuple[int, int], ...] | None = None, name: bytes = b"f") -> Entry:
    return Entry(name, EntryType.FILE, size=size, stored=size if stored is None else stored, extents=extents)


def test_the_streams_digest_is_computed_here(staging: Staging) -> None:
    target = assembler(staging)
    take(target, run(b"headera", (6, file(3))), run(b"bcpadding"), (END, b"{}"))
    target.finish()
    assert target.diff_id.hex == hashlib.sha256(b"headerabcpadding").hexdigest()
    assert target.stream_size == 16


@pytest.mark.parametrize(
    "frames",
    [
        [run(b"")],
        [(DATA, b"of nothing")],
        [(RUN, b"\0\0\0")],
        [(RUN, b"\1\0\0\0")],
        [(RUN, struct.pack("<I", 200) + b"\xff" * 200)],
        [run(b"ab", (0, file(3))), (END, b"{}")],
        [run(b"ab", (0, file(3)), (2, file(3)))],
        [run(b"ab", (0, file(3))), run(b"c", (0, file(1)))],
        [run(b"abcd", (0, file(3)), (2, file(1)))],
        [run(b"abcd", (3, file(1)), (2, file(1)))],
        [run(b"abcd", (5, file(1)))],
        [run(b"x" * (SMALL_FILE + 1), (0, file(SMALL_FILE + 2))), run(b"yz", (0, file(1)))],
        [run(b"ab", (0, file(3, stored=2)))],
    ],
)
def test_a_worker_that_breaks_the_protocol(staging: Staging, frames: list[tuple[int, bytes]]) -> None:
    target = assembler(staging)
    with pytest.raises(WorkerError):
        take(target, *frames)
    target.abandon()


@pytest.mark.parametrize(
    "extents",
    [((10, 5), (0, 5)), ((0, 5), (4, 5)), ((0, 100),), ((95, 10),), ((0, 9),), ()],
)
def test_a_map_of_a_sparse_file_that_cannot_be(staging: Staging, extents: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(BadImage, match="sparse"):
        take(assembler(staging), run(b"", (0, file(100, 10, extents))))


def test_a_sparse_file_is_put_together(staging: Staging) -> None:
    target = assembler(staging)
    take(target, run(b"abcdefg", (0, file(100, 10, ((10, 5), (15, 0), (50, 5), (100, 0))))), run(b"hij"))
    node = target.finish().root.entries[b"f"]
    assert isinstance(node, Inode)
    assert node.content is not None
    expected = bytes(10) + b"abcde" + bytes(35) + b"fghij" + bytes(45)
    assert node.content.sha256 == hashlib.sha256(expected).digest()


def test_a_sparse_file_of_holes_only(staging: Staging) -> None:
    target = assembler(staging)
    take(target, run(b"", (0, file(5 << 20, 0, ()))))
    node = target.finish().root.entries[b"f"]
    assert isinstance(node, Inode)
    assert node.content is not None
    assert node.content.sha256 == hashlib.sha256(bytes(5 << 20)).digest()


def test_small_files_are_in_the_image_and_no_objects(staging: Staging) -> None:
    target = assembler(staging)
    take(target, run(b"x" * 64, (0, file(64))))
    node = target.finish().root.entries[b"f"]
    assert isinstance(node, Inode)
    assert node.data == b"x" * 64
    assert staging.forest.sizes == {}


@pytest.mark.parametrize(
    ("limits", "frames"),
    [
        (Limits(layer_bytes=1000), [run(b"x" * 1001)]),
        (Limits(layer_bytes=1000), [run(b"x" * 600), run(b"x" * 600)]),
        (Limits(layer_bytes=1000), [run(b"", (0, file(900, 0, ())), (0, file(900, 0, ())))]),
        (Limits(file_bytes=1000), [run(b"", (0, file(1001)))]),
        (Limits(entries=2), [run(b"", *((0, Entry(b"d%d" % n, EntryType.DIR)) for n in range(3)))]),
    ],
)
def test_limits_hold_whatever_the_worker_says(staging: Staging, limits: Limits, frames: list[tuple[int, bytes]]) -> None:
    target = assembler(staging, limits)
    with pytest.raises(LimitExceeded):
        take(target, *frames)


@pytest.mark.parametrize("path", [b"../x", b"a/../../x", b"", b"x\0y", b"a" * 256, b".wh."])
def test_names_are_checked_here(staging: Staging, path: bytes) -> None:
    with pytest.raises(AlsError):
        take(assembler(staging), run(b"", (0, Entry(path, EntryType.FILE))))


@pytest.mark.parametrize("step", [1, 7, 100, 4096, 1 << 20, 3 << 20])
def test_a_stream_in_runs_of_any_size_is_one_layer(staging: Staging, step: int) -> None:
    """With as many buffers as may be, that are overwritten in turn, as the reader of frames does it."""
    numbers = random.Random(step)
    sizes = [0, 1, 64, 65, 2000] * 3 + ([SMALL_FILE, SMALL_FILE + 1, 700_000] if step >= 4096 else [])
    stream = bytearray()
    begins: dict[int, list[Entry]] = {}
    for number, size in enumerate(sizes):
        stream += b"header"
        begins.setdefault(len(stream), []).append(file(size, name=b"f%d" % number))
        stream += numbers.randbytes(size)
    stream += b"end"
    target, buffers = assembler(staging), [bytearray(4 << 20) for _ in range(KEPT)]
    for count, start in enumerate(range(0, len(stream), step)):
        here = {at - start: found for at, found in begins.items() if start <= at < start + step}
        entries = [(at, entry) for at, found in here.items() for entry in found]
        kind, body = run(bytes(stream[start : start + step]), *entries)
        buffer = buffers[count % KEPT]
        buffer[:] = bytes(len(buffer))
        buffer[: len(body)] = body
        target.take(kind, memoryview(buffer)[: len(body)])
    tree = target.finish()
    target.abandon()
    assert target.diff_id.hex == hashlib.sha256(stream).hexdigest()
    for at, found in begins.items():
        for entry in found:
            content = bytes(stream[at : at + entry.size])
            node = tree.root.entries[entry.path]
            assert isinstance(node, Inode)
            if entry.size <= INLINE_FILE:
                assert (node.data or b"") == content
            else:
                assert node.content is not None
                assert node.content.sha256 == hashlib.sha256(content).digest()
                assert (staging.path / "diff1" / forest_path(node.content.name)).read_bytes() == content


def test_a_sparse_file_with_the_content_of_a_small_one(staging: Staging) -> None:
    """The one is written as it comes while the other is still being written beside."""
    content = bytes(100) + b"x" * 100
    target = assembler(staging)
    small, sparse = file(200, name=b"small"), file(200, 100, ((100, 100),), name=b"sparse")
    take(target, run(content + content[100:], (0, small), (200, sparse)))
    entries = target.finish().root.entries
    target.abandon()
    assert staging.forest.sizes == {hashlib.sha256(content).digest(): 200}
    assert [node.content.sha256 for node in entries.values() if isinstance(node, Inode) and node.content is not None] == [
        hashlib.sha256(content).digest()
    ] * 2
