"""tar-split files of layers that no store holds: whatever a tar may hold, the stream comes back."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from als.errors import AlsError, StoreDamaged
from als.fetch.assembler import INLINE_FILE
from als.formats.tar import FORMAT
from als.model.builder import TreeBuilder
from als.model.entry import EntryType
from als.model.tree import Content, FileType, Inode, Tree
from als.store.recipe import ObjectPart, RecipeWriter
from als.store.tarsplit import write_forest_tar_split, write_tar_split
from tests.formats.streams import logical, read_layer
from tests.formats.tarblocks import END, header, padded, pax
from tests.harness.ocilayout import TarBuilder
from tests.store.tarsplit_reader import Parts, crc64


def test_the_reader_s_checksum() -> None:
    """The check value of the catalogue of CRC algorithms, https://reveng.sourceforge.io/crc-catalogue/, CRC-64/GO-ISO."""
    assert crc64(b"123456789").hex() == "b90956c775a41001"


@dataclass(frozen=True)
class Made:
    """A layer as the store would have it."""

    tree: Tree
    recipe: Path
    objects: Path

    def open(self, sha256: bytes) -> int:
        return os.open(self.objects / sha256.hex(), os.O_RDONLY)

    def get(self, name: bytes) -> bytes:
        """As a client: a regular file of this very name, and no inline one."""
        node = self.tree.find(name)
        assert isinstance(node, Inode) and node.type is FileType.FILE
        assert node.content is not None and node.content.sha256 is not None and node.data is None
        return (self.objects / node.content.sha256.hex()).read_bytes()

    def get_of_forest(self, name: bytes) -> bytes:
        """As podman 4: whatever lies there."""
        assert name.startswith(b"../diff1/.als/")
        return (self.objects / name.rpartition(b"/")[2].decode()).read_bytes()

    def forest_tar_split(self) -> bytes:
        out = io.BytesIO()
        write_forest_tar_split(self.recipe, self.open, out)
        return out.getvalue()

    def tar_split(self) -> bytes:
        out = io.BytesIO()
        write_tar_split(self.tree, self.recipe, self.open, out)
        return out.getvalue()


def make(raw: bytes, folder: Path) -> Made:
    """Split a tar stream by the rules of als.fetch.ingest."""
    parser = FORMAT.parser
    layer = read_layer(raw, parser)
    builder = TreeBuilder()
    found = io.BytesIO()
    recipe = RecipeWriter(found)
    position = 0
    for entry, stored in layer.entries:
        whole = logical(entry, stored)
        if entry.type is not EntryType.FILE or not whole:
            builder.add(entry)
            continue
        if len(whole) <= INLINE_FILE and entry.extents is None:
            builder.add(entry, data=whole)
            continue
        sha256 = hashlib.sha256(whole).digest()
        (folder / sha256.hex()).write_bytes(whole)
        builder.add(entry, content=Content.of_sha256(sha256))
        if stored:
            # Contents here are random or long, so that a payload is not found before its place.
            start = raw.index(stored, position)
            recipe.segment(raw[position:start])
            for offset, length in entry.extents if entry.extents is not None else ((0, len(whole)),):
                recipe.object(ObjectPart(sha256, offset, length))
            position = start + len(stored)
    recipe.segment(raw[position:])
    recipe.close()
    (folder / "recipe").write_bytes(found.getvalue())
    return Made(builder.finish(), folder / "recipe", folder)


NAMES = [
    "a",
    "b",
    "d/a",
    "d/b",
    "./a",
    "d//b",
    "e/../a",
    "日",
    "n" * 120,
    "d/" * 40 + "x",
    'q"\\\n\x7f',
    "\udcff\udcfe",
    "d/.wh.b",
]
CONTENTS = [b"", b"tiny", b"\x01" * 64, b"\x02" * 65, b"\x03" * 600, b"\x04" * 70_000, bytes(range(256)) * 4]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    target = io.BytesIO()
    form = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    with tarfile.open(fileobj=target, mode="w", format=form, errors="surrogateescape") as archive:
        for _ in range(draw(st.integers(0, 12))):
            member = tarfile.TarInfo(draw(st.sampled_from(NAMES)))
            member.type = draw(st.sampled_from([tarfile.REGTYPE] * 4 + [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE]))
            content = draw(st.sampled_from(CONTENTS)) if member.isreg() else b""
            member.size = len(content)
            if member.islnk() or member.issym():
                member.linkname = draw(st.sampled_from(NAMES))
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


@given(raw=streams())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_any_layer_s_stream_comes_back(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """Names that repeat, are replaced, hidden, linked, spelt oddly or not UTF-8."""
    try:
        made = make(raw, tmp_path_factory.mktemp("layer"))
    except AlsError:
        reject()
    file = made.tar_split()
    assert Parts.read(file).stream(made.get) == raw
    assert made.tar_split() == file
    assert Parts.read(made.forest_tar_split()).stream(made.get_of_forest) == raw


def test_every_file_of_its_own_name_is_named(tmp_path: Path) -> None:
    tar = (
        TarBuilder()
        .file("etc/a", b"a" * 65)
        .file("etc/b", b"b" * 64)
        .file("etc/c", b"c" * 2_000_000)
        .hardlink("etc/z", "etc/a")
    )
    made = make(tar.build(), tmp_path)
    assert [(name, size) for name, size, _ in Parts.read(made.tar_split()).files] == [(b"etc/a", 65), (b"etc/c", 2_000_000)]


def test_a_replaced_file_is_a_segment(tmp_path: Path) -> None:
    old, new = b"old" * 100, b"new" * 100
    made = make(TarBuilder().file("a", old).file("a", new).build(), tmp_path)
    parts = Parts.read(made.tar_split())
    assert [name for name, _, _ in parts.files] == [b"a"]
    assert isinstance(parts.parts[0], bytes) and old in parts.parts[0]


def test_in_the_forest_every_content_is_named_once(tmp_path: Path) -> None:
    old, new = b"old" * 100, b"new" * 100
    made = make(TarBuilder().file("a", old).file("a", new).file("b", new).build(), tmp_path)
    parts = Parts.read(made.forest_tar_split())
    names = [f"../diff1/.als/{hashlib.sha256(content).hexdigest()}".encode() for content in (old, new)]
    assert [name for name, _, _ in parts.files] == names
    assert parts.stream(made.get_of_forest).count(new) == 2


def test_equal_files_take_each_name_once(tmp_path: Path) -> None:
    """Three payloads, two names that are left."""
    same = b"same" * 100
    made = make(TarBuilder().file("a", same).file("b", same).file("b", same).build(), tmp_path)
    parts = Parts.read(made.tar_split())
    assert [name for name, _, _ in parts.files] == [b"a", b"b"]
    assert sum(part.count(same) for part in parts.parts if isinstance(part, bytes)) == 1


def test_names_that_are_not_utf8_are_raw(tmp_path: Path) -> None:
    name = b"caf\xe9"
    raw = header(name, size=b"144") + padded(b"x" * 100) + END
    made = make(raw, tmp_path)
    (line,) = (line for line in gzip.decompress(made.tar_split()).splitlines() if b'"type":1' in line)
    assert base64.b64decode(json.loads(line)["name_raw"]) == name and "name" not in json.loads(line)
    assert Parts.read(made.tar_split()).stream(made.get) == raw


def test_a_name_too_long_for_the_client_s_path_is_a_segment(tmp_path: Path) -> None:
    """The client puts /proc/self/fd/N/ before it."""
    name = b"/".join([b"n" * 250] * 16 + [b"n" * 60])
    raw = pax(b"path=" + name) + header(b"x", size=b"144") + padded(b"x" * 100) + END
    made = make(raw, tmp_path)
    parts = Parts.read(made.tar_split())
    assert made.get(name) and not parts.files
    assert parts.stream(made.get) == raw


def test_long_segments_are_divided(tmp_path: Path) -> None:
    old = os.urandom(5_000_000)
    raw = TarBuilder().file("a", old).file("a", b"new" * 100).build()
    made = make(raw, tmp_path)
    parts = Parts.read(made.tar_split())
    assert max(len(part) for part in parts.parts if isinstance(part, bytes)) < 1 << 20
    assert parts.stream(made.get) == raw


def test_content_of_an_unknown_digest_goes_into_the_file(tmp_path: Path) -> None:
    raw = TarBuilder().file("a", b"x" * 1000).build()
    made = make(raw, tmp_path)
    node = made.tree.root.entries[b"a"]
    assert isinstance(node, Inode)
    made.tree.root.entries[b"a"] = replace(node, content=Content(b"n" * 32, None))
    parts = Parts.read(made.tar_split())
    assert not parts.files and parts.stream(made.get) == raw


@pytest.mark.parametrize("length", [0, 999])
def test_an_object_that_became_shorter_is_noticed(tmp_path: Path, length: int) -> None:
    content = b"x" * 1000
    made = make(TarBuilder().file("a", content).build(), tmp_path)
    os.truncate(tmp_path / hashlib.sha256(content).hexdigest(), length)
    with pytest.raises(StoreDamaged, match="shorter"):
        made.tar_split()
