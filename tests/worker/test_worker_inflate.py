"""Units decompressed by a process without privileges, and what such a process may not do."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from als.errors import AlsError, BadImage, DeadlineExceeded, LimitExceeded, WorkerError
from als.formats.codecs import Compression
from als.worker.client import Workers
from als.worker.inflate import Compressed, InflatePool, Inflater

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture(scope="module")
def workers(module_dir: Path) -> Iterator[Workers]:
    with Workers((65534, 65534), module_dir / "empty") as found:
        yield found


@pytest.fixture
def pool(workers: Workers) -> Iterator[InflatePool]:
    with InflatePool(workers) as found:
        yield found


def inflate(pool: InflatePool, kind: Compression, *units: Compressed, whole: bool = False) -> list[bytes | AlsError]:
    with pool.lent() as inflater:
        found = list(inflater.inflate(kind, units, whole=whole))
    return [bytes(each) if isinstance(each, bytearray) else each for each in found]


def packed(kind: Compression, data: bytes) -> bytes:
    if kind is Compression.GZIP:
        return gzip.compress(data, 6, mtime=0)
    return zstandard.ZstdCompressor().compress(data) if kind is Compression.ZSTD else data


@pytest.mark.parametrize("kind", list(Compression))
def test_units_come_back_whole_or_in_part(pool: InflatePool, kind: Compression) -> None:
    small, large = b"small" * 100, os.urandom(3 << 20) + bytes(9 << 20)
    units = [Compressed(packed(kind, data), len(data)) for data in (small, large, small)]
    for whole in (False, True):
        assert inflate(pool, kind, *units, whole=whole) == [small, large, small]
    assert inflate(pool, kind, Compressed(packed(kind, large), 1000)) == [large[:1000]]
    assert inflate(pool, kind) == []


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])
def test_a_damaged_unit_spoils_no_other(pool: InflatePool, kind: Compression) -> None:
    good = packed(kind, b"good" * 1000)
    cut, wrong = good[:-9], good[:20] + bytes(8) + good[28:]
    units = [Compressed(data, 4000) for data in (good, cut, good, wrong, b"", b"\xff" * 50, good)]
    found = inflate(pool, kind, *units, whole=True)
    assert [found[0], found[2], found[6]] == [b"good" * 1000] * 3
    assert all(isinstance(found[at], BadImage) for at in (1, 3, 5)), found


def test_what_expands_too_far(pool: InflatePool) -> None:
    bomb = Compressed(zstandard.ZstdCompressor().compress(bytes(1 << 30)), 5000)
    (found,) = inflate(pool, Compression.ZSTD, bomb)
    assert found == bytes(5000)
    (found,) = inflate(pool, Compression.ZSTD, bomb, whole=True)
    assert isinstance(found, LimitExceeded)


def test_processes_are_kept(workers: Workers) -> None:
    with InflatePool(workers, keep=1) as pool:
        with pool.lent() as first:
            pass
        with pool.lent() as second, pool.lent() as third:
            assert second is first
            assert third is not first
        with pool.lent(fresh=True) as fourth:
            assert fourth not in (first, second, third)


@pytest.mark.parametrize("lie", ["flood", "silence", "death", "garbage", "empty"])
def test_a_process_that_was_taken_over(module_dir: Path, lie: str) -> None:
    expected = DeadlineExceeded if lie == "silence" else WorkerError
    with (
        Workers((65534, 65534), module_dir / "empty", "tests.worker.inflate_liar") as workers,
        InflatePool(workers, stall=0.6) as pool,
    ):
        with pytest.raises(expected), pool.lent() as inflater:
            list(inflater.inflate(Compression.NONE, [Compressed(lie.encode(), 100)]))
        with pool.lent() as other:
            assert other is not inflater


def test_a_block_that_breaks_off_costs_the_process(workers: Workers) -> None:
    with InflatePool(workers) as pool:
        used: list[Inflater] = []
        with pytest.raises(ZeroDivisionError), pool.lent() as inflater:
            used.append(inflater)
            next(inflater.inflate(Compression.NONE, [Compressed(b"x", 1)] * 3))
            raise ZeroDivisionError
        with pool.lent() as other:
            assert other is not used[0]
