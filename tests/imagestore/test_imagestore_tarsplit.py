"""tar-split files, read by gzip and JSON as containers/storage reads them."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from als.errors import StoreDamaged
from als.imagestore.tarsplit import SEGMENT_BYTES, TarSplitFile, tar_split, tar_split_size

EDGES = [0, 1, 2, 3, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 10 * SEGMENT_BYTES, 11 * SEGMENT_BYTES + 2, 3_000_001]


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def stream_in(file: bytes) -> bytes:
    """What containers/storage would make of the file: gunzip, one JSON object after another, each a segment in order."""
    entries = [json.loads(line) for line in gzip.decompress(file).splitlines()]
    assert [entry["position"] for entry in entries] == list(range(len(entries)))
    assert all(entry["type"] == 2 for entry in entries)
    return b"".join(base64.b64decode(entry["payload"], validate=True) for entry in entries)


@pytest.mark.parametrize("size", EDGES)
def test_size_is_known_beforehand_and_the_stream_comes_back(size: int) -> None:
    data = os.urandom(size)
    file = b"".join(tar_split(pieces(data, 70_001)))
    assert len(file) == tar_split_size(size)
    assert stream_in(file) == data


@given(size=st.integers(0, 400_000), reads=st.lists(st.tuples(st.integers(0, 600_000), st.integers(0, 200_000)), max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_part_can_be_read(size: int, reads: list[tuple[int, int]]) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    whole = b"".join(tar_split(pieces(data[:size], 9_999)))
    file = TarSplitFile(lambda: pieces(data[:size], 12_345), size)
    assert file.size == len(whole)
    for offset, length in reads:
        assert file.read_at(offset, length) == whole[offset : offset + length]


def test_a_stream_that_became_shorter_is_noticed() -> None:
    file = TarSplitFile(lambda: iter([b"x" * 100]), 500_000)
    with pytest.raises(StoreDamaged):
        file.read_at(0, file.size)
