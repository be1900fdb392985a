"""The privileged side of the making of a layer, against workers that lie."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from als.errors import AlsError, BadImage, LimitExceeded, WorkerError
from als.fetch.ingest import SMALL_FILE, _Assembler
from als.model.entry import Entry, EntryType
from als.model.limits import Limits
from als.model.tree import Inode
from als.store.layers import Layers, Staging
from als.store.layout import Layout
from als.store.recipe import RecipeWriter
from als.worker.frames import BEGIN, PAYLOAD, SEGMENT, pack_entry


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Staging]:
    layout = Layout(tmp_path / "root")
    layout.create()
    with Layers(layout).stage() as staged:
        yield staged
    assert os.listdir(layout.tmp) == []


def assembler(staging: Staging, limits: Limits | None = None) -> _Assembler:
    return _Assembler(staging, RecipeWriter(io.BytesIO()), limits or Limits(), "layer")


def take(target: _Assembler, *frames: tuple[int, bytes]) -> None:
    for kind, body in frames:
        target.take(kind, memoryview(body))


def file(size: int, stored: int | None = None, extents: tuple[tuple[int, int], ...] | None = None) -> tuple[int, bytes]:
    entry = Entry(b"f", EntryType.FILE, size=size, stored=size if stored is None else stored, extents=extents)
    return BEGIN, pack_entry(entry)


def test_the_streams_digest_is_computed_here(staging: Staging) -> None:
    target = assembler(staging)
    take(target, (SEGMENT, b"header"), file(3), (PAYLOAD, b"a"), (PAYLOAD, b"bc"), (SEGMENT, b"padding"))
    target.finish()
    assert target.diff_id.hex == hashlib.sha256(b"headerabcpadding").hexdigest()
    assert target.stream_size == 16


@pytest.mark.parametrize(
    "frames",
    [
        [(PAYLOAD, b"of no file")],
        [file(3), (SEGMENT, b"in between")],
        [file(3), file(3)],
        [file(3), (PAYLOAD, b"abcd")],
        [file(SMALL_FILE + 1), (PAYLOAD, b"x" * (SMALL_FILE + 2))],
        [file(3, stored=2)],
        [(BEGIN, b"")],
        [(BEGIN, b"\xff" * 200)],
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
        take(assembler(staging), file(100, 10, extents))


def test_a_sparse_file_is_put_together(staging: Staging) -> None:
    target = assembler(staging)
    take(target, file(100, 10, ((10, 5), (15, 0), (50, 5), (100, 0))), (PAYLOAD, b"abcdefg"), (PAYLOAD, b"hij"))
    node = target.finish().root.entries[b"f"]
    assert isinstance(node, Inode)
    assert node.content is not None
    expected = bytes(10) + b"abcde" + bytes(35) + b"fghij" + bytes(45)
    assert node.content.sha256 == hashlib.sha256(expected).digest()


def test_a_sparse_file_of_holes_only(staging: Staging) -> None:
    target = assembler(staging)
    take(target, file(5 << 20, 0, ()))
    node = target.finish().root.entries[b"f"]
    assert isinstance(node, Inode)
    assert node.content is not None
    assert node.content.sha256 == hashlib.sha256(bytes(5 << 20)).digest()


def test_small_files_are_in_the_image_and_no_objects(staging: Staging) -> None:
    target = assembler(staging)
    take(target, file(64), (PAYLOAD, b"x" * 64))
    node = target.finish().root.entries[b"f"]
    assert isinstance(node, Inode)
    assert node.data == b"x" * 64
    assert staging.forest.sizes == {}


@pytest.mark.parametrize(
    ("limits", "frames"),
    [
        (Limits(layer_bytes=1000), [(SEGMENT, b"x" * 1001)]),
        (Limits(layer_bytes=1000), [file(900, 0, ()), file(900, 0, ())]),
        (Limits(file_bytes=1000), [file(1001)]),
        (Limits(entries=2), [(BEGIN, pack_entry(Entry(b"d%d" % n, EntryType.DIR))) for n in range(3)]),
    ],
)
def test_limits_hold_whatever_the_worker_says(staging: Staging, limits: Limits, frames: list[tuple[int, bytes]]) -> None:
    target = assembler(staging, limits)
    with pytest.raises(LimitExceeded):
        take(target, *frames)


@pytest.mark.parametrize("path", [b"../x", b"a/../../x", b"", b"x\0y", b"a" * 256, b".wh."])
def test_names_are_checked_here(staging: Staging, path: bytes) -> None:
    with pytest.raises(AlsError):
        take(assembler(staging), (BEGIN, pack_entry(Entry(path, EntryType.FILE))))
