"""Recipes give a stream back bit by bit, and tear loudly."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from als.errors import StoreDamaged
from als.store.recipe import ObjectPart, RecipeWriter, read_recipe, tar_stream

PARTS = st.lists(st.one_of(st.binary(max_size=300), st.tuples(st.binary(min_size=1, max_size=500), st.integers(0, 400))))


@given(parts=PARTS)
@settings(max_examples=60)
def test_a_stream_comes_back(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes | tuple[bytes, int]]) -> None:
    folder = tmp_path_factory.mktemp("recipe")
    out = io.BytesIO()
    writer = RecipeWriter(out)
    expected = b""
    for part in parts:
        if isinstance(part, bytes):
            writer.segment(part)
            expected += part
        else:
            content, start = part
            start = min(start, len(content))
            sha256 = hashlib.sha256(content).digest()
            (folder / sha256.hex()).write_bytes(content)
            writer.object(ObjectPart(sha256, start, len(content) - start))
            expected += content[start:]
    writer.close()
    (folder / "recipe").write_bytes(out.getvalue())
    stream = tar_stream(folder / "recipe", lambda sha256: os.open(folder / sha256.hex(), os.O_RDONLY), piece=7)
    assert b"".join(stream) == expected


def _recipe(path: Path) -> Path:
    with path.open("wb") as file:
        writer = RecipeWriter(file)
        writer.segment(os.urandom(5000))
        writer.object(ObjectPart(bytes(32), 0, 10))
        writer.segment(os.urandom(3_000_000))
        writer.close()
    return path


def test_segments_larger_than_a_record_are_split(tmp_path: Path) -> None:
    records = list(read_recipe(_recipe(tmp_path / "recipe")))
    assert [len(record) for record in records if isinstance(record, bytes)] == [5000, 1 << 20, 1 << 20, 3_000_000 - (2 << 20)]


@pytest.mark.parametrize("cut", [0, 7, 8, 20, 4000, 1_000_000, 3_000_000])
def test_a_torn_recipe_is_noticed(tmp_path: Path, cut: int) -> None:
    whole = _recipe(tmp_path / "recipe").read_bytes()
    (tmp_path / "recipe").write_bytes(whole[:cut])
    with pytest.raises(StoreDamaged):
        list(read_recipe(tmp_path / "recipe"))


def test_a_changed_recipe_is_noticed(tmp_path: Path) -> None:
    whole = bytearray(_recipe(tmp_path / "recipe").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "recipe").write_bytes(whole)
    with pytest.raises(StoreDamaged):
        list(read_recipe(tmp_path / "recipe"))


def test_an_object_that_became_shorter_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(b"12345")
    with pytest.raises(StoreDamaged, match="shorter"):
        list(tar_stream(_recipe(tmp_path / "recipe"), lambda sha256: os.open(tmp_path / "object", os.O_RDONLY)))
