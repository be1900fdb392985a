"""Runs of an index, beside the index."""

from __future__ import annotations

import tarfile
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from als.errors import BadImage
from als.formats.index import Columns, LayerIndex
from als.formats.indexrows import RowReader, digest_of, pack_rows
from tests.formats.test_formats_lazy import fixture_layers
from tests.formats.tocbuilder import file, folder, info, zstd_podman
from tests.lazy.site import index_of

INDEX = index_of(
    zstd_podman(
        [
            folder("d"),
            file("d/a", b"a" * 100),
            (info("d/link", tarfile.SYMTYPE, link="a"), b""),
            (info("null", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
            file("empty", b"", mtime=-5),
            (info("x", size=4, pax_headers={"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": "22"}), b"xxxx"),
            (info("y", size=1, pax_headers={"SCHILY.xattr.user.a": "1"}), b"y"),
        ]
    )
)


def check(index: LayerIndex, cuts: list[int]) -> None:
    reader, found = RowReader(), []
    for start, stop in zip([0, *cuts], [*cuts, len(index)], strict=True):
        run = reader.read(pack_rows(index.columns, start, stop))
        found += zip(run.entries(), run.sha256s(), strict=True)
    assert found == list(zip(index.entries(), index.sha256s(), strict=True))
    assert reader.digest == digest_of(index.columns)


@given(st.lists(st.integers(0, len(INDEX))).map(sorted))
def test_runs_of_any_length(cuts: list[int]) -> None:
    check(INDEX, cuts)


def test_fixtures(fixtures_dir: Path) -> None:
    for _, layer in fixture_layers(fixtures_dir):
        index = index_of(layer)
        check(index, [len(index) // 3, len(index) // 2])


@pytest.mark.parametrize("name", [each.name for each in fields(Columns) if not each.name.startswith(("chunk", "unit"))])
def test_a_digest_of_every_column(name: str) -> None:
    """Whatever an entry says, another one makes another digest."""
    other = index_of(zstd_podman([folder("d"), file("d/a", b"a" * 100)]))
    before = digest_of(other.columns)
    column = getattr(other.columns, name)
    if name == "rdevs":
        other.columns.rdevs = {1: (1, 3)}
    elif name == "xattrs":
        other.columns.xattrs = {1: ((b"user.a", b""),)}
    elif isinstance(column, bytes):
        setattr(other.columns, name, column[:-1] + bytes([column[-1] ^ 1]))
    else:
        column[-1] += 1
    assert digest_of(other.columns) != before


def test_a_torn_run() -> None:
    whole = pack_rows(INDEX.columns, 0, len(INDEX))
    for length in range(len(whole)):
        with pytest.raises(BadImage):
            RowReader().read(whole[:length])
    with pytest.raises(BadImage, match="something follows"):
        RowReader().read(whole + b"x")


def test_runs_in_another_order() -> None:
    reader = RowReader()
    with pytest.raises(BadImage):
        for start, stop in ((2, len(INDEX)), (0, 2)):
            reader.read(pack_rows(INDEX.columns, start, stop))
